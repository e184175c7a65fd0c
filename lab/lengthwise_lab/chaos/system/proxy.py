"""A TCP proxy that can be told to misbehave: before Redis, and between a primary and its replica.

It looks at no bytes: a request is what a client sends, its reply is what comes back next, which is
exact for clients that wait for their answers, as ours do. Called by system.py and nemesis.py, and
by tests of the store and of the worker.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast


class Proxy:
    """Connects whoever comes to its `port` to `target`, which may change at any time."""

    def __init__(self, target_port: int, *, tls: ssl.SSLContext | None = None) -> None:
        """Nothing listens yet; the target is on this machine. `tls`: spoken by those who come."""
        self.target_port, self._tls = target_port, tls
        self.port = 0
        #: Everything is late by this, s, each way; the order is kept.
        self.delay_s = 0.0
        self.shut = False  #: Whoever comes is cut off at once.
        self.drop_left = 0  #: So many replies will not be delivered: their connections are cut.
        self.dropped = 0  #: How many were not.
        self.links: set[_Link] = set()
        self.connecting: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Link(self).client, "127.0.0.1", 0, ssl=self._tls
        )
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def aclose(self) -> None:
        """Listen no more, cut what is left, and return when all of it is closed."""
        if self._server is not None:
            self._server.close()
        await _turns()  # who was just let in is a link only after some of them
        self.cut()
        await asyncio.gather(*self.connecting, return_exceptions=True)
        await _turns()  # a socket is closed one behind its transport's `abort`

    def cut(self) -> int:
        """Cut all connections; how many there were."""
        links = list(self.links)
        for link in links:
            link.abort()
        return len(links)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Inside the block nobody gets through."""
        self.shut = True
        self.cut()
        try:
            yield
        finally:
            self.shut = False


async def _turns() -> None:
    """Some turns of the event loop: as many as an accepted connection needs to be handed over."""
    for _ in range(5):
        await asyncio.sleep(0)


class _Link:
    """One client's connection, and the one made for it."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.client, self.server = _End(self), _End(self)
        self.client.other, self.server.other = self.server, self.client

    def opened(self, end: _End) -> None:
        if end is self.client:
            if self.proxy.shut:
                self.abort()
                return
            self.proxy.links.add(self)
            task = asyncio.get_running_loop().create_task(self._connect())
            self.proxy.connecting.add(task)
            task.add_done_callback(self.proxy.connecting.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.server, "127.0.0.1", self.proxy.target_port)
        except OSError:
            self.abort()
            return
        if self.client.closed:
            self.abort()

    def got(self, end: _End, data: bytes) -> None:
        proxy = self.proxy
        if end is self.server and proxy.drop_left > 0:
            proxy.drop_left -= 1
            proxy.dropped += 1
            self.abort()
            return
        end.other.send(data, proxy.delay_s)

    def abort(self) -> None:
        self.proxy.links.discard(self)
        for end in (self.client, self.server):
            end.closed = True
            if end.transport is not None:
                end.transport.abort()


class _End(asyncio.Protocol):
    """One of the two sockets of a link."""

    other: _End

    def __init__(self, link: _Link) -> None:
        self.link = link
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self._late: deque[tuple[float, bytes]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.link.opened(self)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self.link.got(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.link.abort()

    def send(self, data: bytes, delay_s: float) -> None:
        """Deliver later, and never before what came earlier."""
        if self.transport is not None and delay_s <= 0 and not self._late:
            self.transport.write(data)
            return
        loop = asyncio.get_running_loop()
        self._late.append((loop.time() + delay_s, data))
        if len(self._late) == 1:
            loop.call_at(self._late[0][0], self._flush)

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        if self.transport is None:
            return  # comes again when it is connected
        while self._late and self._late[0][0] <= loop.time():
            _, data = self._late.popleft()
            if not self.closed:
                self.transport.write(data)
        if self._late:
            loop.call_at(self._late[0][0], self._flush)
