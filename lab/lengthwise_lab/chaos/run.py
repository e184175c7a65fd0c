"""One chaos run from start to end: start the system, use it, break it, let it recover, look.

Called by `lengthwise bench chaos` and by the tests.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lengthwise_contract.queue_settings import QueueClass, QueueSettings
from lengthwise_lab.chaos import auditor, faults
from lengthwise_lab.chaos.checks import checker
from lengthwise_lab.chaos.clients import workload as asks
from lengthwise_lab.chaos.clients.service_client import Caller
from lengthwise_lab.chaos.clients.job_clients import Clients
from lengthwise_lab.chaos.faults import Kind
from lengthwise_lab.chaos.history import History, read
from lengthwise_lab.chaos.system.model_server import ModelServer
from lengthwise_lab.chaos.nemesis import Nemesis
from lengthwise_lab.chaos.system.processes import QUEUE, Sizes, System
from lengthwise_lab.chaos.checks.report import Report
from lengthwise_lab.errors import ChaosError

#: At the end the service itself is asked about one job in so many.
_VIEW_EVERY = 20

#: With no job handed in, started or ended for so long, s, the system stands still: no more comes.
_STILL_S = 90.0

#: How long the system may take to finish what it has, once it is left alone, s.
_DRAIN_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do. `folder` must exist; it gets the history, the logs and the broker's files.

    `backlog`: jobs are handed in as long as fewer than this wait or run. `kinds`: the faults, and
    `per_kind` how many of each (None: as faults.py says).
    """

    seed: int
    jobs: int
    folder: Path
    backlog: int = 150
    sizes: Sizes = field(default_factory=Sizes)
    kinds: tuple[Kind, ...] = tuple(Kind)
    per_kind: int | None = None

    @property
    def history(self) -> Path:
        """Where the history is written."""
        return self.folder / "history.jsonl"


async def run(plan: Plan, say: Callable[[str], None]) -> Report:
    """Carry a plan out, and check its history.

    Args:
        plan: What to do.
        say: Gets a line now and then: how far it is.

    Raises:
        ChaosError: The harness broke, and nothing is said about the system.
    """
    with History(plan.history) as history:
        await _Run(plan, history, say).run()
    return checker.check(read(plan.history))


class _Run:
    def __init__(self, plan: Plan, history: History, say: Callable[[str], None]) -> None:
        self._plan, self._history, self._say = plan, history, say
        self._in_line = 0
        self._still = False

    async def run(self) -> None:
        plan, history = self._plan, self._history
        history.write("run", "ok", seed=plan.seed, jobs=plan.jobs, **self._settings())
        system = System(plan.folder, plan.sizes, _free_ports(plan.sizes.services))

        def kill(worker: str) -> None:
            system.worker(worker).signal(signal.SIGKILL)
            history.write("fault", "ok", kind="poison_job", victim=worker)

        engine = ModelServer(QUEUE, history, kill)
        caller = Caller(system.urls, system.keys, history, seed=plan.seed)
        clients = Clients(caller, history, seed=plan.seed)
        await engine.start()
        try:
            async with system:
                await system.start_services(engine.predictor_url)
                await clients.make_queue(_queue_settings())
                names = [f"worker-{i}" for i in range(plan.sizes.workers)]
                await system.start_workers({name: engine.url(name) for name in names})
                await self._use_and_break(system, clients, engine)
                await self._drain(clients)
                await self._look(system, clients)
        finally:
            await clients.aclose()
            await caller.aclose()
            await engine.aclose()

    def _settings(self) -> dict[str, Any]:
        return {
            "sizes": asdict(self._plan.sizes),
            "classes": {asks.CLASSES[0]: 0.0, asks.CLASSES[1]: asks.BATCH_OFFSET_MS},
            "overtake_factor": asks.OVERTAKE_FACTOR,
        }

    async def _use_and_break(self, system: System, clients: Clients, engine: ModelServer) -> None:
        plan = faults.plan(self._plan.seed, self._plan.jobs, self._plan.kinds, self._plan.per_kind)
        breaker = Nemesis(system, plan, self._history)
        watch = asyncio.create_task(self._watch(clients, breaker, engine, len(plan)))

        async def may_submit(number: int) -> bool:
            await breaker.may_submit(number)
            while self._in_line >= self._plan.backlog and not self._still:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            return not self._still

        try:
            async with asyncio.TaskGroup() as group:
                breaking = group.create_task(breaker.run())
                await clients.submit_all(self._plan.jobs, may_submit)
                if self._still:
                    breaking.cancel()
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from several
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(
        self, clients: Clients, breaker: Nemesis, engine: ModelServer, planned: int
    ) -> None:
        """Know how long the line is, and whether it moves; tell how far we are."""
        told, moved, seen = 0.0, 0.0, (0, 0)
        while True:
            before = clients.submitted
            if seen != (before, engine.executed):
                moved, seen = self._history.seconds, (before, engine.executed)
            elif self._history.seconds - moved > _STILL_S and not self._still:
                self._still = True
                self._history.write("stall", "fail", why=f"nothing moved for {_STILL_S:g} s")
            view = await clients.queue()
            if view is not None:
                after = clients.submitted - before  # handed in while we asked
                self._in_line = view["depth"] + view["in_flight"] + view["scheduled"] + after
            if self._history.seconds - told > 5:
                told = self._history.seconds
                self._say(
                    f"{told:5.0f} s: {clients.submitted} of {self._plan.jobs} jobs handed in, "
                    f"{self._in_line} in the line, {breaker.begun} of {planned} faults"
                )
            await asyncio.sleep(0.1)

    async def _drain(self, clients: Clients) -> None:
        """Until nothing is left to do; it goes into the history if that never comes."""
        self._say(f"{self._history.seconds:5.0f} s: all handed in; the line runs empty")
        ends = self._history.seconds + _DRAIN_S
        while self._history.seconds < ends:
            view = await clients.queue()
            if view is not None and not (view["depth"] + view["in_flight"] + view["scheduled"]):
                return
            await asyncio.sleep(0.2)
        self._history.write("drain", "fail", why="jobs are left")

    async def _look(self, system: System, clients: Clients) -> None:
        """Write down how everything stands at the end."""
        primary = system.broker.primary
        stored = await auditor.stored_ids(primary.client)
        self._say(f"{self._history.seconds:5.0f} s: reading {len(stored)} jobs and their outputs")
        self._history.write("stored", "ok", ids=stored)
        ids = sorted(clients.ids.union(stored))
        await auditor.look_at(f"redis://127.0.0.1:{primary.port}/0", ids, self._history)
        await clients.view_some(ids[::_VIEW_EVERY])
        view = await clients.queue()
        if view is None:
            raise ChaosError("the queue service does not answer, though nothing is broken any more")
        counters = {s: view[s] for s in ("succeeded", "failed", "cancelled", "expired")}
        line = {name: view[name] for name in ("depth", "scheduled", "in_flight")}
        self._history.write("queue", "ok", **line, counters=counters)
        for process in (*system.services, *system.workers):
            self._history.write("exits", "ok", process=process.name, statuses=process.ends)
        self._history.write("end", "ok")


def _queue_settings() -> QueueSettings:
    offsets = (0.0, asks.BATCH_OFFSET_MS)
    classes = [
        QueueClass(name=name, offset_ms=offset)
        for name, offset in zip(asks.CLASSES, offsets, strict=True)
    ]
    return QueueSettings(
        overtake_factor=asks.OVERTAKE_FACTOR,
        classes=classes,
        min_rank_accuracy=None,  # the order is to stay what the checker takes it to be
    )


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
