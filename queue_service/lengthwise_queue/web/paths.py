"""Forgives extra slashes in paths, and finds the path that a client may have meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

_PREFIX = "/v1"

#: Parts in front of a path that clients add for other services, or twice.
_STRAY = ("/v1", "/api", "/openai")

#: A path with a name that may contain slashes.
_NAMED = re.compile(r"(/+v1/+(?:queues|models)/+)(.*)", re.DOTALL)

#: How alike two paths must be for one to be suggested for the other, 0 to 1.
_ALIKE = 0.85


class ForgivingPaths:
    """Removes repeated slashes, and one at the end: clients join URLs carelessly."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            path = _without_extra(scope["path"])
            if path != scope["path"]:
                scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)


def _without_extra(path: str) -> str:
    named = _NAMED.fullmatch(path)
    # Inside a name they count: `PUT /v1/queues/a//b` must not make `a/b`.
    head, name = (named[1], named[2]) if named else (path, "")
    return (re.sub("//+", "/", head) + name.rstrip("/")).rstrip("/") or "/"


def suggestion(method: str, path: str, routes: Iterable[Route]) -> str | None:
    """Return the path of a route that a client may have meant; None: nothing is alike."""
    routes = list(routes)
    for candidate in _with_prefix(path):
        scope = {"type": "http", "method": method, "path": candidate}
        if any(route.matches(scope)[0] is Match.FULL for route in routes):
            return candidate
    fixed = [r.path for r in routes if "{" not in r.path and method in (r.methods or ())]
    return next(iter(difflib.get_close_matches(path, fixed, n=1, cutoff=_ALIKE)), None)


def _with_prefix(path: str) -> Iterator[str]:
    """Yield the path behind one `/v1`, without one or more stray parts in front."""
    yield _PREFIX + path
    while stray := next((s for s in _STRAY if path.startswith(f"{s}/")), None):
        path = path.removeprefix(stray)
        yield _PREFIX + path
        yield path
