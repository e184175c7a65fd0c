"""The proxy of a chaos run leaves connections half open: no byte, no end, and no error arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from lengthwise_lab.chaos.system.proxy import HalfOpen, Proxy

#: How long a test waits to see that nothing comes, s.
NOTHING_S = 0.05


@dataclass
class Echo:
    """A server that returns what it gets, and counts it and the ends of its connections."""

    got: bytes = b""
    ended: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        while data := await reader.read(100):
            self.got += data
            writer.write(data)
        self.ended += 1
        writer.close()


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[Echo, Proxy, int]]:
    """Run a server and a proxy in front of it, which listens for the client "a" as well."""
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname()[1])
    await proxy.start()
    try:
        yield echo, proxy, await proxy.listen("a")
    finally:
        await proxy.aclose()
        server.close()
        await server.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, 5 s at most."""
    async with asyncio.timeout(5.0):
        while not condition():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.001)


async def nothing_comes(reader: asyncio.StreamReader) -> bool:
    """Whether neither a byte nor the end comes."""
    try:
        await asyncio.wait_for(reader.read(1), NOTHING_S)
    except TimeoutError:
        return True
    return False


@pytest.mark.parametrize("forwards", list(HalfOpen))
def test_a_half_open_connection_forwards_one_direction_at_most_and_new_ones_work(
    forwards: HalfOpen,
) -> None:
    async def scenario() -> None:
        async with proxied() as (echo, proxy, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"1")
            assert await reader.readexactly(1) == b"1"
            assert proxy.leave_half_open("a", forwards) == 1
            writer.write(b"2")
            if forwards is HalfOpen.REQUESTS:
                await until(lambda: echo.got == b"12")
            assert await nothing_comes(reader)
            assert echo.got == (b"12" if forwards is HalfOpen.REQUESTS else b"1")
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
            other_writer.write(b"3")
            assert await other_reader.readexactly(1) == b"3"
            for each in (writer, other_writer):
                each.close()

    asyncio.run(scenario())


def test_the_server_does_not_learn_that_the_client_of_a_half_open_connection_left() -> None:
    async def scenario() -> None:
        async with proxied() as (echo, proxy, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"1")
            assert await reader.readexactly(1) == b"1"
            proxy.leave_half_open("a")
            writer.close()
            await writer.wait_closed()
            await asyncio.sleep(NOTHING_S)
            assert echo.ended == 0
            proxy.abort_half_open()
            await until(lambda: echo.ended == 1 or not proxy.links)

    asyncio.run(scenario())


def test_only_the_connections_of_the_named_client_are_left_half_open() -> None:
    async def scenario() -> None:
        async with proxied() as (_echo, proxy, _port):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"1")
            assert await reader.readexactly(1) == b"1"
            assert proxy.leave_half_open("a") == 0
            writer.write(b"2")
            assert await reader.readexactly(1) == b"2"
            writer.close()

    asyncio.run(scenario())
