"""Run chaos from start to end: start the system, use it, break it, let it recover, check it.

Called by `lengthwise bench chaos` and by the tests.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from lengthwise_contract.queue_settings import QueueClass, QueueSettings
from lengthwise_lab.chaos import auditor, faults
from lengthwise_lab.chaos.checks import checker
from lengthwise_lab.chaos.checks.report import ChaosReport
from lengthwise_lab.chaos.clients import workload
from lengthwise_lab.chaos.clients.batch_clients import BatchClients
from lengthwise_lab.chaos.clients.job_clients import JobClients
from lengthwise_lab.chaos.clients.retrying_client import RetryingClient
from lengthwise_lab.chaos.clients.settings_writers import SettingsWriters
from lengthwise_lab.chaos.faults import FaultKind
from lengthwise_lab.chaos.history import History, read
from lengthwise_lab.chaos.nemesis import Nemesis
from lengthwise_lab.chaos.system.model_server import ModelServer
from lengthwise_lab.chaos.system.processes import QUEUE, Sizes, System, free_ports
from lengthwise_lab.errors import ChaosError
from lengthwise_store.errors import StoreUnavailable

#: At the end, one job in this many is requested from the service.
_VIEW_EVERY = 20

#: After this time without a submit or an engine call, s, the system is stalled and the run stops:
#: longer than the longest outage.
_STALL_S = 150.0

#: Pause between two sweeps of a long run, s, which record the jobs that ended so long before, ms:
#: longer than any stopped worker comes too late.
_SWEEP_EVERY_S, _ENDED_AGO_MS = 300.0, 120_000.0

#: How long the system may take to finish all jobs after the last fault, s.
_DRAIN_S = 180.0


@dataclass(frozen=True, kw_only=True)
class ChaosPlan:
    """The settings of a run. `folder` must exist; it gets the history, logs and broker's files.

    `backlog`: jobs are submitted while fewer than this are unfinished. `kinds`: the kinds of
    faults, and `per_kind` the number of each (None: see faults.py).
    """

    seed: int
    jobs: int
    folder: Path
    backlog: int = 150
    sizes: Sizes = field(default_factory=Sizes)
    kinds: tuple[FaultKind, ...] = faults.USUAL_KINDS
    per_kind: int | None = None

    @property
    def history(self) -> Path:
        """The file of the history."""
        return self.folder / "history.jsonl"


async def run(plan: ChaosPlan, report_progress: Callable[[str], None]) -> ChaosReport:
    """Carry out a run and check its history.

    Args:
        plan: The settings.
        report_progress: Gets a line of text from time to time.

    Raises:
        ChaosError: The harness failed. That does not mean anything about the system.
    """
    with History(plan.history) as history:
        await _ChaosRun(plan, history, report_progress).run()
    return checker.check(read(plan.history))


class _ChaosRun:
    def __init__(
        self, plan: ChaosPlan, history: History, report_progress: Callable[[str], None]
    ) -> None:
        self._plan, self._history = plan, history
        self._report_progress = report_progress
        self._unfinished = 0
        self._audited: set[str] = set()  #: Jobs that are recorded before the end.
        self._stalled = False

    async def run(self) -> None:
        plan, history = self._plan, self._history
        history.write("run", "ok", seed=plan.seed, jobs=plan.jobs, **self._settings())
        system = System(plan.folder, plan.sizes, free_ports(plan.sizes.services))

        def kill(worker: str) -> None:
            system.worker(worker).signal(signal.SIGKILL)
            history.write("fault", "ok", kind="poison_job", victim=worker)

        engine = ModelServer(QUEUE, history, kill)
        client = RetryingClient(system, history, seed=plan.seed)
        clients = JobClients(client, history, seed=plan.seed)
        await engine.start()
        try:
            async with system:
                await system.start_services(engine.predictor_url)
                settings = _queue_settings()
                await clients.make_queue(settings)
                await system.start_workers(engine.port)
                writers = SettingsWriters(client, history, settings, seed=plan.seed)
                batches = BatchClients(client, history, seed=plan.seed)
                writers.start()
                sweeps = asyncio.create_task(self._audit_old(system))
                try:
                    await self._use_and_break(system, clients, engine, writers, batches)
                    await self._drain(clients)
                finally:
                    sweeps.cancel()
                    await asyncio.gather(sweeps, return_exceptions=True)
                    await writers.aclose()
                await writers.read()
                await self._audit(system, clients)
        finally:
            await clients.aclose()
            await client.aclose()
            await engine.aclose()

    def _settings(self) -> dict[str, Any]:
        return {
            "sizes": asdict(self._plan.sizes),
            "classes": {workload.CLASSES[0]: 0.0, workload.CLASSES[1]: workload.BATCH_OFFSET_MS},
            "overtake_factor": workload.OVERTAKE_FACTOR,
            "start_ms": self._history.start_ms,
            "sick_bound_s": self._plan.sizes.sick_bound_s,
        }

    async def _use_and_break(
        self,
        system: System,
        clients: JobClients,
        engine: ModelServer,
        writers: SettingsWriters,
        batches: BatchClients,
    ) -> None:
        plan = faults.plan(self._plan.seed, self._plan.jobs, self._plan.kinds, self._plan.per_kind)
        nemesis = Nemesis(system, engine, writers, plan, self._history)
        watch = asyncio.create_task(self._watch(clients, nemesis, engine, len(plan)))

        async def may_submit(number: int) -> bool:
            await nemesis.may_submit(number)
            while self._unfinished >= self._plan.backlog and not self._stalled:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            return not self._stalled

        try:
            async with asyncio.TaskGroup() as group:
                faults_task = group.create_task(nemesis.run())
                batches_task = group.create_task(
                    batches.run(self._plan.jobs, lambda: clients.submitted)
                )
                await clients.submit_all(self._plan.jobs, may_submit)
                if self._stalled:
                    faults_task.cancel()
                    batches_task.cancel()
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from several
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(
        self, clients: JobClients, nemesis: Nemesis, engine: ModelServer, planned: int
    ) -> None:
        """Keep the number of unfinished jobs, detect a stall, and report progress."""
        reported, moved, seen = 0.0, 0.0, (0, 0)
        while True:
            before = clients.submitted
            if seen != (before, engine.executed):
                moved, seen = self._history.seconds, (before, engine.executed)
            elif self._history.seconds - moved > _STALL_S and not self._stalled:
                self._stalled = True
                self._history.write("stall", "fail", why=f"no progress for {_STALL_S:g} s")
            view = await clients.queue()
            if view is not None:
                after = clients.submitted - before  # submitted during the request
                self._unfinished = view["depth"] + view["in_flight"] + view["scheduled"] + after
            if self._history.seconds - reported > 5:
                reported = self._history.seconds
                self._report_progress(
                    f"{reported:5.0f} s: {clients.submitted} of {self._plan.jobs} jobs submitted, "
                    f"{self._unfinished} unfinished, {nemesis.started} of {planned} faults"
                )
            await asyncio.sleep(0.1)

    async def _audit_old(self, system: System) -> None:
        """Record jobs that ended long ago, every few minutes: an ended job is kept for an hour.

        Not with `replica`: a crash may take back the end of a job, which then runs again.
        """
        while system.sizes.durability == "async":
            await asyncio.sleep(_SWEEP_EVERY_S)
            primary = system.broker.primary
            try:
                before_ms = await primary.clock_ms() - _ENDED_AGO_MS
                ids = set(await auditor.stored_ids(primary.client)) - self._audited
                self._audited |= await auditor.record_jobs(
                    primary.url, ids, self._history, ended_before_ms=before_ms
                )
            except (RedisError, OSError, StoreUnavailable):
                continue  # a fault of the run; the jobs are recorded by the next sweep

    async def _drain(self, clients: JobClients) -> None:
        """Wait until all jobs have ended. Record it if they do not in time."""
        self._report_progress(
            f"{self._history.seconds:5.0f} s: all jobs submitted; waiting until they end"
        )
        ends = self._history.seconds + _DRAIN_S
        while self._history.seconds < ends:
            view = await clients.queue()
            if view is not None and not (view["depth"] + view["in_flight"] + view["scheduled"]):
                return
            await asyncio.sleep(0.2)
        self._history.write("drain", "fail", why="jobs are left")

    async def _audit(self, system: System, clients: JobClients) -> None:
        """Record all jobs, the queue and the processes at the end."""
        primary = system.broker.primary
        stored = sorted(self._audited.union(await auditor.stored_ids(primary.client)))
        self._report_progress(f"{self._history.seconds:5.0f} s: reading the jobs and their outputs")
        self._history.write("stored", "ok", ids=stored)
        ids = sorted(clients.ids.union(stored) - self._audited)
        await auditor.record_jobs(primary.url, ids, self._history)
        await clients.view_some(ids[::_VIEW_EVERY])
        view = await clients.queue()
        if view is None:
            raise ChaosError("the queue service does not answer, though the faults are over")
        counters = {s: view[s] for s in ("succeeded", "failed", "cancelled", "expired")}
        sizes = {name: view[name] for name in ("depth", "scheduled", "in_flight")}
        self._history.write("queue", "ok", **sizes, counters=counters)
        for process in (*system.services, *system.workers):
            self._history.write("exits", "ok", process=process.name, statuses=process.exits)
        self._history.write("end", "ok")


def _queue_settings() -> QueueSettings:
    offsets = (0.0, workload.BATCH_OFFSET_MS)
    classes = [
        QueueClass(name=name, offset_ms=offset)
        for name, offset in zip(workload.CLASSES, offsets, strict=True)
    ]
    return QueueSettings(
        overtake_factor=workload.OVERTAKE_FACTOR,
        classes=classes,
        min_rank_accuracy=None,  # no fallback: the checks assume the order of due times
    )
