"""A small HTTP/1.1 client for one host: keep-alive connections, one request on each at a time.

Only `predictor_client` uses it. httpx was measured first: 0.53 ms a call to a server that answers
at once, on the machine where this takes 0.06; at a thousand jobs a second that is half a core.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import cast
from urllib.parse import urlsplit

import httptools

#: Largest answer that is read, bytes; a prediction has a few hundred.
MAX_ANSWER_BYTES = 1 << 20

#: Connections kept open and idle; under more load than this, further ones are closed after use.
MAX_IDLE = 32


class HttpError(Exception):
    """The host closed the connection, or sent something that is not HTTP."""


class HttpHost:
    """Posts JSON to one host. Cancelling a call closes its connection."""

    def __init__(self, base_url: str) -> None:
        """Remember the host; connections are made when needed.

        Raises:
            ValueError: `base_url` is not an http or https URL.
        """
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"expected a URL such as http://127.0.0.1:8081, got {base_url!r}")
        self._host = url.hostname
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._path = url.path.rstrip("/")
        self._authority = url.netloc.rpartition("@")[2]
        self._idle: list[_Connection] = []

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send one request; status and body of the answer.

        Raises:
            HttpError: The connection broke, or the answer is not HTTP.
            OSError: The host cannot be reached.
        """
        head = (
            f"POST {self._path}{path} HTTP/1.1\r\nHost: {self._authority}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection = await self._connection()
        try:
            answer = await connection.exchange(head.encode("latin-1") + body)
        except BaseException:  # a cancelled exchange leaves an answer on its way: never reuse it
            connection.close()
            raise
        if connection.reusable and len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            connection.close()
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(_Connection, self._host, self._port, ssl=self._tls)
        return made


class _Connection(asyncio.Protocol):
    """One connection. The `on_*` methods are called by the parser."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._body = bytearray()
        self.reusable = False

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._transport is None or self._transport.is_closing():
            raise HttpError("the connection is closed")
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.reusable = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        self._fail(HttpError(f"the connection was closed: {exc or 'end of stream'}"))

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():  # nobody asked
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self.close()
            self._fail(HttpError(f"the answer is not HTTP: {exc}"))

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > MAX_ANSWER_BYTES:
            self.close()
            self._fail(HttpError(f"the answer is over {MAX_ANSWER_BYTES} bytes"))

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.reusable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), bytes(self._body)))

    def _fail(self, error: HttpError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
