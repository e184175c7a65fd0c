"""TLS to Sentinels and to a Cluster: real servers, whose primary dies.

The test server's binary is built without TLS. Each server is announced at a front, which
terminates TLS for connections that begin with a handshake and passes on plain connections: those
are the servers' own.
"""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.redis.settings import RedisAddress, Tls
from lengthwise_store.store import JobStore

if TYPE_CHECKING:
    from tests.faults.conftest import QueueRig, Servers

On = Callable[..., None]

_HANDSHAKE = b"\x16"  # the first byte of a TLS record that holds one


class Fronts:
    """The announced ports, in a thread: the servers need them before any test runs."""

    def __init__(self, folder: Path) -> None:
        self.over_tls: Counter[int] = Counter()  #: By port.
        authority = trustme.CA()
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(self._context)
        authority.configure_trust(self._context)
        self._context.verify_mode = ssl.CERT_REQUIRED
        mine = authority.issue_cert("client.example")
        self.tls = Tls(
            ca_file=folder / "ca.pem",
            cert_file=folder / "client.pem",
            key_file=folder / "client.key",
        )
        authority.cert_pem.write_to_path(str(self.tls.ca_file))
        mine.cert_chain_pems[0].write_to_path(str(self.tls.cert_file))
        mine.private_key_pem.write_to_path(str(self.tls.key_file))
        self._listeners: list[socket.socket] = []
        self._accepted: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def of(self, port: int) -> int:
        """The front of the server on `port`, which need not run yet."""
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self._listeners.append(listener)
        front = int(listener.getsockname()[1])
        self._loop.call_soon_threadsafe(
            self._loop.add_reader, listener, self._accept, listener, front, port
        )
        return front

    def _accept(self, listener: socket.socket, front: int, port: int) -> None:
        try:
            near, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # the client has disconnected
        near.setblocking(False)
        self._accepted.append(near)  # `_pass_on` may be cancelled before its first line
        task = self._loop.create_task(self._pass_on(near, front, port))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, near: socket.socket, front: int, port: int) -> None:
        readable = asyncio.Event()
        self._loop.add_reader(near, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(near)
        reader = asyncio.StreamReader()
        writers: list[asyncio.StreamWriter] = []
        try:
            is_tls = near.recv(1, socket.MSG_PEEK) == _HANDSHAKE
            transport, protocol = await self._loop.connect_accepted_socket(
                lambda: asyncio.StreamReaderProtocol(reader),
                near,
                ssl=self._context if is_tls else None,
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
            writers.append(writer)
            self.over_tls[front] += is_tls
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(far_writer)
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        except OSError:
            near.close()  # the server is down, or the peer refused the certificate
        finally:
            for each in writers:
                each.transport.abort()

    def close(self) -> None:
        async def end() -> None:
            for listener in self._listeners:
                self._loop.remove_reader(listener)  # no other client is accepted
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        try:
            asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            for each in (*self._listeners, *self._accepted):
                each.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@pytest.fixture
def fronts(tmp_path: Path) -> Iterator[Fronts]:
    """Fronts that end with the test."""
    made = Fronts(tmp_path)
    yield made
    made.close()


def test_a_front_closes_a_connection_that_never_sent_a_byte(tmp_path: Path) -> None:
    fronts = Fronts(tmp_path)
    with socket.create_connection(("127.0.0.1", fronts.of(free_port()))):
        fronts.close()
        gc.collect()  # a socket that is left open causes a warning here


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _over_tls(url: str) -> str:
    return url.replace("redis+", "rediss+", 1)


async def _works_again_after(rig: QueueRig, kill: Callable[[], None]) -> None:
    """Every kind of command works, the primary dies, and every kind works again."""
    store, q = rig.store, rig.queue
    await store.check()
    before = await rig.submit()
    assert await store.wait_for_work(q, 5) is True
    reader = asyncio.create_task(store.wait_output(q, before, timeout_s=60))
    assert await rig.serve() == [before]
    assert await reader
    kill()
    after = await rig.comes_back(rig.submit)
    assert await rig.comes_back(lambda: store.wait_for_work(q, 5)) is True
    assert after in await rig.comes_back(lambda: rig.serve(5))
    found = await store.find(after)
    assert found is not None


@pytest.mark.slow
def test_sentinels_and_the_primary_that_they_name_are_reached_over_tls(
    servers: Servers, on: On, fronts: Fronts, wait_for: Callable[..., Any]
) -> None:
    primary = servers.start(repl_diskless_sync_delay=0)
    front = fronts.of(primary.port)
    port = free_port()
    replica_front = fronts.of(port)
    replica = servers.start(
        port=port, replicaof=f"127.0.0.1 {front}", replica_announce_port=replica_front
    )
    wait_for(lambda: primary.ask("INFO", "replication")["connected_slaves"] == 1, "a replica")
    plain = servers.sentinels(front)
    url = re.sub(r":(\d+)", lambda found: f":{fronts.of(int(found[1]))}", plain)

    async def body(rig: QueueRig) -> None:
        assert fronts.over_tls[front] > 0
        await _works_again_after(rig, primary.kill)
        assert replica.ask("ROLE")[0] == "master"
        assert fronts.over_tls[replica_front] > 0

    on(RedisAddress.parse(_over_tls(url), tls=fronts.tls), body)


@pytest.mark.slow
def test_every_node_of_a_cluster_is_reached_over_tls(
    servers: Servers, on: On, fronts: Fronts
) -> None:
    front_of: dict[int, int] = {}

    def announced(port: int) -> int:
        front_of[port] = fronts.of(port)
        return front_of[port]

    nodes, url = servers.cluster(replicas=3, announced=announced)
    address = RedisAddress.parse(_over_tls(url), tls=fronts.tls)

    async def body(rig: QueueRig) -> None:
        key = f"lw:{{{rig.queue}}}:meta"
        slot = nodes[0].ask("CLUSTER", "KEYSLOT", key)
        [owner] = [number for number in range(3) if slot in range(*_SLOTS[number])]
        await _works_again_after(rig, nodes[owner].kill)
        assert nodes[3 + owner].ask("ROLE")[0] == "master"
        assert fronts.over_tls[front_of[nodes[3 + owner].port]] > 0

    on(address, body)


_SLOTS = [(0, 5461), (5461, 10923), (10923, 16384)]


@pytest.mark.slow
def test_a_cluster_node_with_an_unverified_certificate_is_refused(
    servers: Servers, fronts: Fronts, tmp_path: Path
) -> None:
    _, url = servers.cluster(announced=fronts.of)
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    tls = Tls(ca_file=stranger, cert_file=fronts.tls.cert_file, key_file=fronts.tls.key_file)

    async def body() -> None:
        store = JobStore(RedisAddress.parse(_over_tls(url), tls=tls))
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(60):
                await store.queues()
        await store.aclose()

    asyncio.run(body())
