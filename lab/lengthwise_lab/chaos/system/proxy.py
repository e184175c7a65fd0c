"""A TCP proxy that can delay, cut, drop, and leave connections half open.

It stands in front of Redis, between primary and replica, and in front of the engines and the queue
services. It does not parse the traffic: the next bytes after a request count as its reply. That is
exact for clients that wait for each reply, like ours. Called by broker.py and nemesis.py, and by
tests of the store and of the worker.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import cast


class HalfOpen(StrEnum):
    """What a half-open connection still forwards. Neither end learns that the other closed."""

    NOTHING = "nothing"  #: A peer that is gone without a trace.
    REQUESTS = "requests"  #: Only from the client: it is heard, and gets no reply.
    REPLIES = "replies"  #: Only to the client.


class Proxy:
    """Connects clients of `port` to `target_port`, which may change at any time.

    It may listen on several ports, so that the connections of each client are known by name.
    """

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
        self._half_open: set[_Link] = set()
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        self.port = await self.listen("")

    async def listen(self, name: str) -> int:
        """Listen on one more free port, for the client `name`. Return the port."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Link(self, name).client, "127.0.0.1", 0, ssl=self._tls
        )
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def aclose(self) -> None:
        """Stop listening, cut all connections, and return when they are closed."""
        for server in self._servers:
            server.close()
        await _turns()  # an accepted connection becomes a link only after some turns
        self.cut()
        self.abort_half_open()
        await asyncio.gather(*self.connecting, return_exceptions=True)
        await _turns()  # a socket is closed one turn after its transport's `abort`

    def cut(self) -> int:
        """Cut all connections. Return their number."""
        links = list(self.links)
        for link in links:
            link.abort()
        return len(links)

    def leave_half_open(self, name: str, forwards: HalfOpen = HalfOpen.NOTHING) -> int:
        """Stop forwarding on the connections of a client, without closing them.

        New connections work. Return the number of connections.
        """
        links = [link for link in self.links if link.name == name]
        for link in links:
            link.half_open = forwards
            self.links.discard(link)
            self._half_open.add(link)
        return len(links)

    def abort_half_open(self) -> None:
        """Abort what is left of half-open connections, as their hosts' keep-alives do in time."""
        for link in list(self._half_open):
            link.abort()

    def forget(self, link: _Link) -> None:
        """Remove a link whose ends are closed."""
        self.links.discard(link)
        self._half_open.discard(link)

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

    def __init__(self, proxy: Proxy, name: str) -> None:
        self.proxy, self.name = proxy, name
        self.half_open: HalfOpen | None = None
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
        if self.half_open is not None:
            forwarded = HalfOpen.REQUESTS if end is self.client else HalfOpen.REPLIES
            if self.half_open is forwarded:
                end.other.send(data, proxy.delay_s)
            return
        if end is self.server and proxy.drop_left > 0:
            proxy.drop_left -= 1
            proxy.dropped += 1
            self.abort()
            return
        end.other.send(data, proxy.delay_s)

    def lost(self, end: _End) -> None:
        if self.half_open is None or end.other.closed:
            self.abort()
        # Else the other end does not learn of it.

    def abort(self) -> None:
        self.proxy.forget(self)
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
        self.link.lost(self)

    def send(self, data: bytes, delay_s: float) -> None:
        """Send after a delay, and never before earlier data."""
        if self.transport is not None and delay_s <= 0 and not self._late:
            if not self.closed:
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
