"""The worker: runs claimed jobs on an engine, and keeps their leases alive.

`Worker.run` is the whole life of a worker; `__main__` and tests call it. This module starts and
ends the parts: claims in claimer.py, leases in heartbeat.py, the engine's health in
engine_watch.py, one job in job_run.py. It also has the watchdog's loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import Claim
from lengthwise_store.queues import Mode
from lengthwise_store.store import JobStore
from lengthwise_worker.backoff import StoreLink
from lengthwise_worker.batching import Batching
from lengthwise_worker.claimer import Claimer
from lengthwise_worker.completion_batcher import CompletionBatcher
from lengthwise_worker.engine_watch import EngineWatch
from lengthwise_worker.engines.base import Engine
from lengthwise_worker.errors import WatchdogGaveUp
from lengthwise_worker.heartbeat import Heartbeat
from lengthwise_worker.job_run import Abort, JobContext, JobRun
from lengthwise_worker.metrics import Metrics
from lengthwise_worker.recorder import Recorder
from lengthwise_worker.settings import Settings
from lengthwise_worker.silence import SilenceWatch
from lengthwise_worker.tasks import end_tasks, unless_set
from lengthwise_worker.watchdog import Watchdog, WatchdogAction

log = logging.getLogger(__name__)

#: When the process ends, how long the last calls of the store may take, s.
_LAST_CALLS_S = 5.0


class Worker:
    """One worker of one queue. Give it an engine and a way to open the store."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        open_store: Callable[[], JobStore],
        metrics: Metrics | None = None,
    ) -> None:
        """Open nothing before `run`.

        Args:
            settings: The worker's.
            engine: Answers the jobs; the worker starts and closes it.
            open_store: Makes a store object with connections of its own.
            metrics: Counts; None: metrics of its own.
        """
        self.settings = settings
        self.metrics = metrics or Metrics()
        self._open_store = open_store
        self._store = open_store()
        self._old_stores: list[JobStore] = []
        self._engine = engine
        self._batching = Batching(
            mode=settings.batching, slots=settings.slots, wait_ms=settings.static_wait_ms
        )
        self._completions = self._make_completions()
        self._watchdog = Watchdog(settings.watchdog_s)
        self._runs: dict[str, JobRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stopping, self._hurry = asyncio.Event(), asyncio.Event()
        self._grace_ended_s: float | None = None
        self._fault: Exception | None = None
        self.link = StoreLink()  #: Whether the store answers.
        self._loops: list[
            asyncio.Task[None]
        ] = []  #: The loops that use the store; the claimer's first.
        self._watch = EngineWatch(
            engine,
            self.metrics,
            self._changed,
            capacity=self._batching.capacity,
            timeout_s=settings.engine_timeout_s,
        )
        self._silence = SilenceWatch(self._watch, lambda: list(self._runs.values()))
        self.recorder = Recorder(settings.queue)
        self._context = JobContext(
            queue=settings.queue,
            engine=engine,
            metrics=self.metrics,
            link=self.link,
            coalesce_s=settings.coalesce_ms / 1000,
            watch=self._watch,
            running=lambda: len(self._runs),
            gave_up=self._gave_up,
            job_succeeded=self.recorder.job_succeeded,
        )
        self.metrics.slots.set(self._batching.capacity)
        self.metrics.inflight.set_function(lambda: len(self._runs))

    @property
    def running(self) -> int:
        """The number of jobs that are claimed and not finished."""
        return len(self._runs)

    # ------------------------------------------------------------------ life

    async def run(self) -> None:
        """Work until `stop`.

        Raises:
            BadSettings: The engine cannot start.
            WatchdogGaveUp: Nothing was claimed even over new connections; and any other error that
                ended one of the loops.
        """
        steady = [self._guarded(self._pulse())]
        try:
            await unless_set(self._stopping, self._engine.start())
            loops = (self._watch.run(), self._silence.run(), self._watchdog_loop())
            steady += [self._guarded(loop) for loop in loops]
            self._start_loops()
            await self._stopping.wait()
            await self._drain()
        finally:
            await end_tasks(*steady)
            await end_tasks(*self._loops)
            await self._engine.aclose()
            for store in (*self._old_stores, self._store):
                await store.aclose()
            log.info("worker ended", extra={"worker_id": self.settings.worker_id})
        if self._fault is not None:
            raise self._fault

    def stop(self) -> None:
        """Stop: the first call lets running jobs finish for a while, the second releases them."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()
        self._changed.set()

    def _break(self, fault: Exception) -> None:
        self._fault = self._fault or fault
        self._hurry.set()
        self.stop()

    def _guarded(self, loop: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a loop as a task; an error in it ends the worker."""

        async def run() -> None:
            try:
                await loop
            except Exception as exc:
                log.exception("worker loop failed", extra={"worker_id": self.settings.worker_id})
                self._break(exc)

        return asyncio.create_task(run())

    def _start_loops(self) -> None:
        claimer = Claimer(
            self._store,
            self.settings,
            batching=self._batching,
            link=self.link,
            stopping=self._stopping,
            changed=self._changed,
            room=self._room,
            running=lambda: self.running,
            start=self._start,
        )
        heartbeat = Heartbeat(
            self._store,
            self.settings,
            engine=self._engine,
            watch=self._watch,
            link=self.link,
            runs=self._runs,
            capacity=self._batching.capacity,
        )
        self._loops = [
            self._guarded(loop)
            for loop in (claimer.run(), *heartbeat.loops(), self.recorder.run(self._store))
        ]

    async def _drain(self) -> None:
        """Let the running jobs finish within the grace period, and release the others."""
        grace_s = 0.0 if self._hurry.is_set() else self.settings.shutdown_grace_s
        log.info("worker stops", extra={"running": len(self._runs), "grace_s": grace_s})
        for run in list(self._runs.values()):
            if run.waits_for_batch:
                run.abort(Abort.RELEASE)
        hurry = asyncio.create_task(self._hurry.wait())
        ends = time.monotonic() + grace_s
        while self._tasks and not hurry.done() and (left := ends - time.monotonic()) > 0:
            await asyncio.wait(
                {*self._tasks, hurry}, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
        hurry.cancel()
        self._grace_ended_s = time.monotonic()
        # A claim that was in flight when the signal came may still return jobs, which `_start`
        # releases. It must be awaited, or those jobs would be stuck until their lease ends.
        if self._loops:
            await asyncio.wait({self._loops[0]}, timeout=_LAST_CALLS_S)
        while self._tasks:
            for run in list(self._runs.values()):
                run.abort(Abort.RELEASE)
            await asyncio.wait(self._tasks, timeout=_LAST_CALLS_S)
            if self._gave_up():
                break

    def _gave_up(self) -> bool:
        return (
            self._grace_ended_s is not None
            and time.monotonic() - self._grace_ended_s > _LAST_CALLS_S
        )

    # ------------------------------------------------------------------ jobs

    def _room(self, *, ending: int = 0) -> int:
        """Return how many more jobs the engine may get. `ending`: jobs that are ending now."""
        if self._stopping.is_set():
            return 0
        return int(min(self._batching.capacity, self._watch.room(self.running - ending)))

    def _make_completions(self) -> CompletionBatcher:
        return CompletionBatcher(
            self._store,
            queue=self.settings.queue,
            worker_id=self.settings.worker_id,
            slots=self._batching.capacity,
            room=lambda ending: self._room(ending=ending) if self._batching.refills_at_once else 0,
            start=self._start,
        )

    def _start(self, claims: Sequence[Claim], gate: asyncio.Event | None = None) -> None:
        """Start claimed jobs; one that arrives while the worker stops is released at once."""
        if not claims:
            return
        self._watchdog.claimed()
        self.metrics.claims.inc(len(claims))
        for claim in claims:
            run = JobRun(claim, self._completions, self._context, gate)
            if self._stopping.is_set():
                run.abort(Abort.RELEASE)
            self._runs[claim.lease.job_id] = run
            log.debug("job claimed", extra={"job_id": claim.lease.job_id})
            task = asyncio.create_task(self._run_job(run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run_job(self, run: JobRun) -> None:
        try:
            await run.run()
        except Exception as exc:
            # The outermost frame of a job: an error that reaches it came from the store.
            log.exception("job broke", extra={"job_id": run.claim.lease.job_id})
            self._break(exc)
        if self._runs.get(run.claim.lease.job_id) is run:
            del self._runs[run.claim.lease.job_id]
        self._changed.set()

    # ------------------------------------------------------------------ the other loops

    async def _pulse(self) -> None:
        """Record for /healthz that the event loop turns."""
        while True:
            self.metrics.turned_s = time.monotonic()
            await asyncio.sleep(1.0)

    async def _watchdog_loop(self) -> None:
        while True:
            await asyncio.sleep(self.settings.watchdog_s / 5)
            starving = False
            if self._room() > 0 and self._batching.room(self.running) > 0:
                try:
                    stats = await self._store.stats(self.settings.queue)
                    starving = stats.depth > 0 and stats.mode is not Mode.PAUSED
                except StoreUnavailable as exc:
                    self.link.failed(exc)
            action = self._watchdog.check(time.monotonic(), starving=starving)
            if action is WatchdogAction.RECONNECT:
                await self._reconnect()
            elif action is WatchdogAction.GIVE_UP:
                raise WatchdogGaveUp(
                    f"Work waits in {self.settings.queue!r} and slots are free, but nothing was "
                    "claimed, even over new connections. Restart the worker."
                )

    async def _reconnect(self) -> None:
        """Open new connections, and claim on them.

        Running jobs keep the old store until they end, because it counts their emitted pieces.
        """
        log.error(
            "watchdog: nothing is claimed, reconnecting", extra={"queue": self.settings.queue}
        )
        self.metrics.watchdog_reconnects.inc()
        await end_tasks(*self._loops)
        self._old_stores.append(self._store)
        self._store = self._open_store()
        self._completions = self._make_completions()
        in_use = {id(run.store) for run in self._runs.values()}
        for store in [old for old in self._old_stores if id(old) not in in_use]:
            self._old_stores.remove(store)
            await store.aclose()
        self._start_loops()
