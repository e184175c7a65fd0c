"""The system under test: queue services and workers as real processes, on a broker of its own.

Called by run.py, which starts it, and by nemesis.py, which breaks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx

from lengthwise_contract.defaults import MAX_ATTEMPTS
from lengthwise_lab.chaos.clients.workload import TENANTS
from lengthwise_lab.chaos.system.broker import Broker
from lengthwise_lab.chaos.system.proxy import Proxy
from lengthwise_lab.errors import ChaosError
from lengthwise_queue.tenants.keys import hash_key, new_key
from lengthwise_worker.outcomes import RETRY_BASE_MS

#: How long a process may take to become ready, s.
_READY_S = 90.0

#: How long a moment may take while two cores do the work of eight processes, s.
_BUSY_S = 3.0

#: The name of the queue and of its model.
QUEUE = "chaos"

#: The tenant that manages the queue and submits nothing.
ADMIN = "admin"


ChaosDurability = Literal["async", "replica"]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The size of the system, and its times.

    The lease is a fraction of the product's default (15 s), so that a run with hundreds of kills
    ends in minutes. The proportions are the same.
    """

    services: int = 2
    workers: int = 3
    slots: int = 8
    lease_ms: int = 2500
    beat_ms: int = 800
    tick_ms: int = 250
    #: The longest silence of an engine within an answer, twice that of a healthy one here.
    engine_timeout_s: float = 3.0
    appendfsync: str = "always"
    #: What an acknowledged submit or finish survives: docs/operate/guarantees.md. With `replica` a
    #: failover is a crash during the lag.
    durability: ChaosDurability = "async"
    #: The worker's module. A test uses one with a bug, which the checks must find.
    worker_module: str = "lengthwise_worker"

    @property
    def sick_bound_s(self) -> float:
        """How long a job may stay with a sick replica while another one is free, s.

        A silent engine is given up after its timeout, and then two probes are waited for, as long
        at most; or the worker is gone, and its lease ends at a tick. The job may have spent up to
        three attempts, and waits for its retry. The rest is for a busy machine.
        """
        lease_s = (self.lease_ms + self.tick_ms) / 1000
        retry_s = RETRY_BASE_MS / 1000 * 2.0 ** (MAX_ATTEMPTS - 1)
        return 3 * self.engine_timeout_s + lease_s + retry_s + _BUSY_S


@dataclass
class Process:
    """A Python process that is restarted, with the same name, whenever it ends."""

    name: str
    module: str
    env: Mapping[str, str]
    log: Path
    starts: int = 0
    exits: list[int] = field(default_factory=list)  #: Exit statuses; negative for a signal.
    process: asyncio.subprocess.Process | None = None
    changes: Mapping[str, str] = field(default_factory=dict)  #: Settings that replace those of env.
    _restarter: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process and restart it whenever it ends."""
        await self._spawn()
        self._restarter = asyncio.create_task(self._restart(), name=f"restart-{self.name}")

    async def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "lengthwise_lab.chaos.system.launcher", str(os.getpid())),
                *("-m", self.module),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment() | dict(self.env) | dict(self.changes),
                start_new_session=True,
            )
        self.starts += 1

    async def _restart(self) -> None:
        while self.process is not None:
            self.exits.append(await self.process.wait())
            await asyncio.sleep(0.05)
            await self._spawn()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process runs."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def stop(self, *, gently: bool) -> None:
        """End the process for good: with SIGTERM first if `gently`, then with SIGKILL."""
        if self._restarter is not None:
            self._restarter.cancel()
            await asyncio.gather(self._restarter, return_exceptions=True)
        if self.process is None:
            return
        self.signal(signal.SIGCONT)
        if gently:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), 10.0)
        self.signal(signal.SIGKILL)
        await self.process.wait()
        self.process = None


def _environment() -> dict[str, str]:
    """Return our environment, without the settings of another Lengthwise on this machine."""
    return {k: v for k, v in os.environ.items() if not k.startswith("LENGTHWISE_")}


class System:
    """All processes. Use it as an async context manager, which ends them all."""

    def __init__(self, folder: Path, sizes: Sizes, ports: list[int]) -> None:
        """Prepare the broker. Nothing runs yet.

        Args:
            folder: For the logs and the broker's data; it must exist.
            sizes: The size of the system.
            ports: Free ports, one for each service.
        """
        self.sizes = sizes
        self.broker = Broker(folder, appendfsync=sizes.appendfsync)
        self.keys = {name: new_key() for name in (*TENANTS, ADMIN)}  #: Tenant -> its API key.
        self.fronts = [Proxy(port) for port in ports]  #: Of the services, for their clients.
        self.engines = Proxy(0)  #: Of the workers' engines; it knows the workers by name.
        self.services: list[Process] = []
        self.workers: list[Process] = []
        self._folder, self._ports = folder, ports

    async def __aenter__(self) -> System:
        """Start the broker and the proxies."""
        await self.broker.start()
        for proxy in (*self.fronts, self.engines):
            await proxy.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all processes."""
        for process in (*self.workers, *self.services):
            await process.stop(gently=False)
        for proxy in (*self.fronts, self.engines):
            await proxy.aclose()
        await self.broker.aclose()

    @property
    def urls(self) -> list[str]:
        """The URLs of the services, through the proxies."""
        return [f"http://127.0.0.1:{front.port}" for front in self.fronts]

    async def start_services(self, predictor_url: str) -> None:
        """Start the queue services, and wait until they are ready.

        Raises:
            ChaosError: One was not ready in time.
        """
        tenants = self._folder / "tenants.json"
        tenants.write_text(
            json.dumps(
                {
                    "tenants": [
                        {"name": name, "keys": [hash_key(key)], "admin": name == ADMIN}
                        for name, key in self.keys.items()
                    ]
                }
            )
        )
        for number, port in enumerate(self._ports):
            name = f"service-{number}"
            env = {
                "LENGTHWISE_QUEUE_REDIS_URL": await self.broker.url_for(name),
                "LENGTHWISE_QUEUE_DURABILITY": self.sizes.durability,
                "LENGTHWISE_QUEUE_PORT": str(port),
                "LENGTHWISE_QUEUE_PREDICTOR_URL": predictor_url,
                # Long, because a late prediction would change a job's place afterwards, and the
                # order could not be checked.
                "LENGTHWISE_QUEUE_PREDICTOR_TIMEOUT_MS": "10000",
                "LENGTHWISE_QUEUE_TENANTS_FILE": str(tenants),
                "LENGTHWISE_QUEUE_SHUTDOWN_GRACE_S": "1",
                "LENGTHWISE_QUEUE_LOG_LEVEL": "WARNING",
            }
            service = Process(name, "lengthwise_queue", env, self._folder / f"{name}.log")
            await service.start()
            self.services.append(service)
        async with httpx.AsyncClient(timeout=5.0) as http:
            for url in self.urls:
                await self._until_ready(http, url)

    async def _until_ready(self, http: httpx.AsyncClient, url: str) -> None:
        ends = asyncio.get_running_loop().time() + _READY_S
        while asyncio.get_running_loop().time() < ends:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get(url + "/readyz")).is_success:
                    return
            await asyncio.sleep(0.05)
        raise ChaosError(f"a queue service did not become ready; its log is in {self._folder}")

    async def start_workers(self, engine_port: int) -> None:
        """Start the workers. Their engines are one server, with a path for each worker."""
        self.engines.target_port = engine_port
        for _ in range(self.sizes.workers):
            await self.start_worker()

    async def start_worker(self) -> None:
        """Start one more worker."""
        sizes, name = self.sizes, f"worker-{len(self.workers)}"
        url = f"http://127.0.0.1:{await self.engines.listen(name)}/{name}"
        env = {
            "LENGTHWISE_WORKER_REDIS_URL": await self.broker.url_for(name),
            "LENGTHWISE_WORKER_DURABILITY": sizes.durability,
            "LENGTHWISE_WORKER_QUEUE": QUEUE,
            "LENGTHWISE_WORKER_ENGINE": "vllm",
            "LENGTHWISE_WORKER_ENGINE_URL": url,
            "LENGTHWISE_WORKER_ENGINE_TIMEOUT_S": str(sizes.engine_timeout_s),
            "LENGTHWISE_WORKER_SLOTS": str(sizes.slots),
            "LENGTHWISE_WORKER_LEASE_MS": str(sizes.lease_ms),
            "LENGTHWISE_WORKER_BEAT_MS": str(sizes.beat_ms),
            "LENGTHWISE_WORKER_TICK_MS": str(sizes.tick_ms),
            "LENGTHWISE_WORKER_WATCHDOG_S": "10",
            "LENGTHWISE_WORKER_SHUTDOWN_GRACE_S": "0.2",
            "LENGTHWISE_WORKER_LOG_LEVEL": "WARNING",
        }
        worker = Process(name, sizes.worker_module, env, self._folder / f"{name}.log")
        await worker.start()
        self.workers.append(worker)

    def worker(self, name: str) -> Process:
        """Return the worker with this name."""
        return next(w for w in self.workers if w.name == name)


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that are free now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
