"""The id of a request: the client's `X-Request-Id`, or a new one; it is in every response."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: The header, in requests and responses.
REQUEST_ID_HEADER = "X-Request-Id"

#: Ids that are taken over. Others could forge lines of a log, or, with more than 64 characters,
#: treble the memory of the job's record (docs/research/experiments.md, "the record").
_VALID = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,64}")


class RequestIds:
    """Gives every request an id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = given if _VALID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


def request_id_of(request: Request) -> str:
    """Return the id of a request."""
    return str(request.state.request_id)
