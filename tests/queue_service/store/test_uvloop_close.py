"""The error of a connection that was closed, also under uvloop, on which the product runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvloop
from redis.exceptions import ConnectionError  # noqa: A004 - the client's own, not the built-in

from lengthwise_store.redis.uvloop_close import PlainConnection, UvloopCloseMixin
from lengthwise_store.store import JobStore

Runner = Callable[[Coroutine[Any, Any, None]], None]


async def ping(connection: Any) -> None:
    await connection.send_command("PING", check_health=False)
    await connection.read_response()


def closed_under(redis_url: str) -> Coroutine[Any, Any, None]:
    """Connect, lose the connection without having read anything, and send a command."""

    async def body() -> None:
        at = urlsplit(redis_url)
        connection: Any = PlainConnection(host=at.hostname or "", port=at.port or 0)
        await connection.connect()
        connection._writer.transport.abort()
        await asyncio.sleep(0)
        with pytest.raises(ConnectionError):
            await ping(connection)
        await connection.disconnect()

    return body()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_command_on_a_connection_that_was_just_closed_is_a_connection_error(
    run: Runner, redis_url: str
) -> None:
    # uvloop's RuntimeError here ended a worker in a chaos run.
    run(closed_under(redis_url))


def test_the_store_uses_such_connections(redis_url: str) -> None:
    async def body() -> None:
        store = JobStore(redis_url)
        assert issubclass(store.client.connection_pool.connection_class, UvloopCloseMixin)
        await store.aclose()

    asyncio.run(body())
