"""Every error of a Redis that cannot serve is a 503, and ends without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.waiting import eventually

from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.redis.settings import RedisAddress
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore

if TYPE_CHECKING:
    from tests.faults.conftest import QueueRig, Server, Servers

On = Callable[..., None]


# The queue service crashed when a Kubernetes Service had no rules on its node yet and an HTTP proxy
# answered at the address of Redis: InvalidResponse is not a ConnectionError.
def test_another_server_at_the_address_of_redis_is_unavailable() -> None:
    async def body() -> None:
        async def http(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(http, "127.0.0.1", 0) as other_server:
            port = other_server.sockets[0].getsockname()[1]
            store = JobStore(RedisAddress.parse(f"redis://:secret@127.0.0.1:{port}/0"))
            with pytest.raises(StoreUnavailable, match="not the server at its address"):
                await store.queues()
            await store.aclose()

    asyncio.run(body())


# Two workers of a chaos run ended: the broker was killed between two commands of their check.
def test_a_redis_that_dies_while_it_is_checked_is_unavailable(servers: Servers) -> None:
    server = servers.start()

    async def body() -> None:
        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", server.port)
            pumping = asyncio.ensure_future(_pump(far_reader, writer))
            while (data := await reader.read(65_536)) and b"CONFIG" not in data:
                far_writer.write(data)
            proxy.close()
            writer.transport.abort()
            far_writer.close()
            await pumping

        proxy = await asyncio.start_server(carry, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        store = JobStore(f"redis://127.0.0.1:{port}/0")
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.check()
        await store.aclose()

    asyncio.run(body())


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)


@contextmanager
def full(server: Server) -> Iterator[None]:
    server.ask("CONFIG", "SET", "maxmemory", "1mb")
    yield
    server.ask("CONFIG", "SET", "maxmemory", "0")


@contextmanager
def a_replica_without_a_primary(server: Server) -> Iterator[None]:
    server.ask("REPLICAOF", "127.0.0.1", 1)
    yield
    server.ask("REPLICAOF", "NO", "ONE")


@contextmanager
def a_replica_that_serves_no_old_data(server: Server) -> Iterator[None]:
    server.ask("CONFIG", "SET", "replica-serve-stale-data", "no")
    server.ask("REPLICAOF", "127.0.0.1", 1)
    yield
    server.ask("REPLICAOF", "NO", "ONE")


@contextmanager
def without_its_replicas(server: Server) -> Iterator[None]:
    server.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    yield
    server.ask("CONFIG", "SET", "min-replicas-to-write", 0)


@contextmanager
def unable_to_save(server: Server) -> Iterator[None]:
    server.ask("CONFIG", "SET", "save", "3600 1")
    shutil.rmtree(server.folder)  # nothing less stops root from writing
    _save(server, "err")
    yield
    server.folder.mkdir()
    server.ask("CONFIG", "SET", "dir", str(server.folder))
    _save(server, "ok")


def _save(server: Server, want: str) -> None:
    server.ask("BGSAVE")
    eventually(
        lambda: server.ask("INFO", "persistence")["rdb_last_bgsave_status"] == want,
        f"the status of the last save is {want}",
    )


@contextmanager
def loading(server: Server) -> Iterator[None]:
    for number in range(100):
        server.ask("SET", f"filler:{number}", number * "0123456789" * 100)
    server.ask("SAVE")
    server.kill()
    # A setting for the server's own tests: microseconds that each key takes to load.
    server.config |= {"key-load-delay": 100_000, "loading-process-events-interval-bytes": 1024}
    server.start()
    yield
    server.ask("CONFIG", "SET", "key-load-delay", 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "want"),
    [
        pytest.param(full, "is full", id="OOM"),
        pytest.param(a_replica_without_a_primary, "is a read-only replica", id="READONLY"),
        pytest.param(
            a_replica_that_serves_no_old_data, "has lost|does not answer", id="MASTERDOWN"
        ),
        pytest.param(without_its_replicas, "has not enough replicas", id="NOREPLICAS"),
        pytest.param(unable_to_save, "cannot write to its disk", id="MISCONF"),
        pytest.param(loading, "is loading its data", id="LOADING"),
    ],
)
def test_a_redis_that_cannot_serve_is_unavailable_and_recovers(
    servers: Servers,
    on: On,
    trouble: Callable[[Server], AbstractContextManager[None]],
    want: str,
) -> None:
    server = servers.start(enable_protected_configs="yes")

    async def body(rig: QueueRig) -> None:
        before = await rig.submit()
        with trouble(server):
            with pytest.raises(StoreUnavailable, match=want) as raised:
                await rig.submit()
            assert raised.value.retry_after_s == 1
        await rig.comes_back(rig.submit)
        assert before in await rig.comes_back(lambda: rig.serve(10))

    on(server.url, body, StoreSettings(command_timeout_s=2))


@pytest.mark.parametrize("flush", ["SCRIPT FLUSH", "FUNCTION FLUSH"])
def test_scripts_that_are_flushed_again_and_again_in_mid_traffic_are_loaded_again(
    servers: Servers, on: On, flush: str
) -> None:
    server = servers.start()

    async def body(rig: QueueRig) -> None:
        done = asyncio.Event()

        async def flusher() -> None:
            while not done.is_set():
                await asyncio.to_thread(server.ask, *flush.split())

        flushing = asyncio.create_task(flusher())
        # Many at once, so that one pipeline has scripts that are loaded and scripts that are not.
        ids = await asyncio.gather(*(rig.submit() for _ in range(200)))
        served: list[str] = []
        while len(served) < len(ids):
            found = await asyncio.gather(*(rig.serve(5) for _ in range(8)))
            served += [one for some in found for one in some]
        done.set()
        await flushing
        assert sorted(served) == sorted(ids)

    on(server.url, body)
