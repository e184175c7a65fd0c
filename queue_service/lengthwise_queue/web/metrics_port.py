"""Serves `/metrics` on a port of its own, and nothing else there. Used by `app.py`."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_PATH = "/metrics"


class MetricsPort:
    """Refuses `/metrics` on the other ports, and everything else on the port of the metrics."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app, self._port = app, port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a 404."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        here = (scope.get("server") or ("", None))[1] == self._port
        if here == (scope["path"] == _PATH):
            await self._app(scope, receive, send)
            return
        hint = f"This port serves {_PATH} alone." if here else "The metrics are on another port."
        error = {"message": hint, "type": "invalid_request_error", "param": None}
        answer = JSONResponse({"error": error | {"code": "unknown_url"}}, 404)
        await answer(scope, receive, send)
