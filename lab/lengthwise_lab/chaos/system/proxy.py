"""A TCP proxy that can delay, cut and drop: in front of Redis, and between primary and replica.

It does not parse the traffic: the next bytes after a request count as its reply. That is exact for
clients that wait for each reply, like ours. Called by broker.py and nemesis.py, and by tests of
the store and of the worker.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast


class Proxy:
    """Connects clients of `port` to `target_port`, which may change at any time."""

    def __init__(self, target_port: int, *, tls: ssl.SSLContext | None = None) -> None:
        """Store the target, a port of this machine. `tls`: used on the clients' side."""
        self.target_port, self._tls = target_port, tls
        self.port = 0
        #: Delay of all traffic, s, in each direction; the order is kept.
        self.delay_s = 0.0
        self.shut = False  #: Whether new connections are cut at once.
        self.drop_left = 0  #: How many of the next replies are dropped, with their connections.
        self.dropped = 0  #: How many replies were dropped.
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
        """Stop listening, cut all connections, and return when they are closed."""
        if self._server is not None:
            self._server.close()
        await _turns()  # an accepted connection becomes a link only after some turns
        self.cut()
        await asyncio.gather(*self.connecting, return_exceptions=True)
        await _turns()  # a socket is closed one turn after its transport's `abort`

    def cut(self) -> int:
        """Cut all connections. Return their number."""
        links = list(self.links)
        for link in links:
            link.abort()
        return len(links)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Cut all connections, and refuse new ones inside the block."""
        self.shut = True
        self.cut()
        try:
            yield
        finally:
            self.shut = False


async def _turns() -> None:
    """Wait as many turns of the event loop as an accepted connection needs."""
    for _ in range(5):
        await asyncio.sleep(0)


class _Link:
    """A client's connection, and the connection to the target for it."""

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
        """Send after a delay, and never before earlier data."""
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
            return  # called again when it is connected
        while self._late and self._late[0][0] <= loop.time():
            _, data = self._late.popleft()
            if not self.closed:
                self.transport.write(data)
        if self._late:
            loop.call_at(self._late[0][0], self._flush)
