"""The measurement: interleaved rounds of every library.

Called by the command line. A library that fails in a round is left out of that round, and its
failure is in the result. Nothing here rates the libraries.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lengthwise_lab.errors import BadChoice, BenchProcessError
from lengthwise_lab.queue_bench.library import LIBRARIES, installed_version
from lengthwise_lab.queue_bench.process_handle import (
    BenchmarkProcess,
    benchmark_process,
    run_process,
)
from lengthwise_lab.queue_bench.server import BenchmarkServer

#: Timeout of one phase of one library, s.
TIMEOUT_S = 120.0

#: Commands of the yardstick.
_YARDSTICK = 20_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of a run.

    `concurrency`: jobs that a worker runs at once, if it can run several. `rate_per_s`, `paced`:
    the open loop's arrivals a second, and their number; 0: no open loop.
    """

    libraries: Sequence[str]
    jobs: int
    rounds: int
    payload_bytes: int
    rate_per_s: float
    paced: int
    concurrency: int

    @property
    def warm_up(self) -> int:
        """Jobs that come first and are not counted."""
        return max(50, self.jobs // 10)


@dataclass(frozen=True, kw_only=True)
class Cores:
    """The CPUs of the server and of the clients; None: any."""

    server: frozenset[int] | None
    clients: frozenset[int] | None

    @property
    def listed(self) -> list[int] | None:
        """The CPUs of the clients as a list."""
        return None if self.clients is None else sorted(self.clients)


def split_cores() -> Cores:
    """Choose one core for the server and another for the worker.

    A producer that runs beside a worker shares the server's core. Nothing is pinned on a machine
    with one core, or one that cannot pin processes.
    """
    if not hasattr(os, "sched_getaffinity"):
        return Cores(server=None, clients=None)
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        return Cores(server=None, clients=None)
    return Cores(server=frozenset(cpus[:1]), clients=frozenset(cpus[1:2]))


@dataclass(kw_only=True)
class LibraryMeasurements:
    """The measurements of one library, one value a round."""

    library: str
    version: str | None
    enqueue_per_s: list[float] = field(default_factory=list)
    enqueue_cpu_us: list[float] = field(default_factory=list)
    enqueue_redis_cpu_us: list[float] = field(default_factory=list)
    process_per_s: list[float] = field(default_factory=list)
    worker_cpu_us: list[float] = field(default_factory=list)
    redis_cpu_us: list[float] = field(default_factory=list)
    commands_per_job: list[float] = field(default_factory=list)
    by_command: dict[str, list[float]] = field(default_factory=dict)
    waits_ms: list[float] = field(default_factory=list)  #: Of the open loops of all rounds.
    failures: list[str] = field(default_factory=list)


class Bench:
    """One run against one server."""

    def __init__(self, server: BenchmarkServer, options: Options, cores: Cores) -> None:
        """Store the arguments. Raises `BadChoice` for an unknown library."""
        unknown = [name for name in options.libraries if name not in LIBRARIES]
        if unknown:
            raise BadChoice(f"no library {', '.join(unknown)}; there are: {', '.join(LIBRARIES)}")
        self._server, self._options, self._cores = server, options, cores
        self.zadd_per_s: list[float] = []
        self.measured = {
            name: LibraryMeasurements(library=name, version=installed_version(name))
            for name in options.libraries
        }

    def run(self, on_step: Callable[[str], None]) -> None:
        """Run all rounds. The order of the libraries rotates from round to round.

        Args:
            on_step: Called with the name of each step before it starts, for a progress bar.
        """
        present = [m for m in self.measured.values() if m.version is not None]
        for number in range(self._options.rounds):
            on_step("yardstick")
            self._server.empty()
            plan = {"url": self._server.url, "jobs": _YARDSTICK, "cpus": self._cores.listed}
            self.zadd_per_s.append(run_process("yardstick", plan, TIMEOUT_S)["zadd_per_s"])
            turn = number % len(present) if present else 0
            for measured in present[turn:] + present[:turn]:
                on_step(measured.library)
                self._server.empty()
                try:
                    self._measure(measured)
                except BenchProcessError as exc:
                    measured.failures.append(str(exc))
        self._server.empty()

    def _measure(self, m: LibraryMeasurements) -> None:
        o, server = self._options, self._server
        common = {"url": server.url, "library": m.library}
        load = {"warm_up": o.warm_up, "jobs": o.jobs, "payload_bytes": o.payload_bytes}
        before = server.usage()
        produced = run_process(
            "produce", common | {"load": load, "cpus": self._cores.listed}, TIMEOUT_S
        )
        enqueue_us, _, _ = server.usage().per_job(before, o.warm_up + o.jobs)
        m.enqueue_per_s.append(o.jobs / produced["seconds"])
        m.enqueue_cpu_us.append(produced["cpu_s"] / o.jobs * 1e6)
        m.enqueue_redis_cpu_us.append(enqueue_us)

        work: dict[str, Any] = {
            "warm_up": o.warm_up,
            "jobs": o.jobs,
            "paced": o.paced,
            "concurrency": o.concurrency,
        }
        with benchmark_process("work", common | work | {"cpus": self._cores.listed}) as worker:
            first = worker.wait_for("started", TIMEOUT_S)
            before = server.usage()
            done = worker.wait_for("done", TIMEOUT_S)
            redis_us, commands, m.by_command = server.usage().per_job(before, o.jobs)
            m.process_per_s.append(o.jobs / (done["at_s"] - first["at_s"]))
            m.worker_cpu_us.append((done["cpu_s"] - first["cpu_s"]) / o.jobs * 1e6)
            m.redis_cpu_us.append(redis_us)
            m.commands_per_job.append(commands)
            if o.paced:
                self._pace(common, worker, m)

    def _pace(
        self, common: dict[str, Any], worker: BenchmarkProcess, m: LibraryMeasurements
    ) -> None:
        o = self._options
        load = {
            "warm_up": 0,
            "jobs": o.paced,
            "payload_bytes": o.payload_bytes,
            "rate_per_s": o.rate_per_s,
        }
        beside = None if self._cores.server is None else sorted(self._cores.server)
        run_process("produce", common | {"load": load, "cpus": beside}, TIMEOUT_S)
        waits = worker.wait_for("paced", TIMEOUT_S)["waits_s"]
        m.waits_ms += [wait * 1000 for wait in waits]
