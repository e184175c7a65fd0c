"""Answers HEAD wherever there is a GET: the same status and headers, without the body."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """Passes a HEAD on as a GET, and ends it when the headers are there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        started = asyncio.Event()
        read = False

        async def receive_until_started() -> Message:
            nonlocal read
            if not read:
                read = True
                return await receive()
            # A stream of events would never end by itself: for it, the client is gone.
            await started.wait()
            return {"type": "http.disconnect"}

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                started.set()

        await self._app({**scope, "method": "GET"}, receive_until_started, send_headers)
        if started.is_set():
            await send({"type": "http.response.body", "body": b"", "more_body": False})
