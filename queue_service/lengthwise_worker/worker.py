"""The worker: claims jobs as its engine has room for them, and keeps their leases alive.

`Worker.run` is the whole life of a worker; `__main__` calls it, tests do. Here: claiming,
the end, and the claim watchdog; heartbeats and the like are in upkeep.py, the engine's health in
engine_watch.py, one job in job_run.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import Claim
from lengthwise_store.queues import Mode
from lengthwise_store.store import JobStore
from lengthwise_worker.backoff import Backoff, StoreLink
from lengthwise_worker.batching import Batching, BatchingMode
from lengthwise_worker.completion_batcher import CompletionBatcher
from lengthwise_worker.engine_watch import EngineWatch
from lengthwise_worker.engines.base import Engine
from lengthwise_worker.errors import WatchdogGaveUp
from lengthwise_worker.heartbeat import Heartbeat
from lengthwise_worker.job_run import Abort, JobContext, JobRun
from lengthwise_worker.metrics import Metrics
from lengthwise_worker.recorder import Recorder
from lengthwise_worker.settings import Settings
from lengthwise_worker.watchdog import Verdict, Watchdog

log = logging.getLogger(__name__)

#: How long one wait for work lasts, s. Then the worker claims anyway, in case a wake was lost.
_WAIT_S = 2.0

#: When the process ends, how long the last words to the store may take, s.
_LAST_WORDS_S = 5.0


class Worker:
    """One worker of one queue. Give it an engine and a way to open the store."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        open_store: Callable[[], JobStore],
        metrics: Metrics | None = None,
    ) -> None:
        """Nothing is opened before `run`.

        Args:
            settings: See there.
            engine: What answers; the worker starts and closes it.
            open_store: Makes a store object with connections of its own.
            metrics: Where to count.
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
        self._endings = self._make_endings()
        self._watchdog = Watchdog(settings.watchdog_s)
        self._runs: dict[str, JobRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stopping, self._hurry = asyncio.Event(), asyncio.Event()
        self._ending_s: float | None = None
        self._fault: Exception | None = None
        self._link = StoreLink()
        self._loops: list[asyncio.Task[None]] = []  #: Those that use the store.
        self._watch = EngineWatch(engine, self.metrics, self._changed)
        self._recorder = Recorder(settings.queue)
        self._context = JobContext(
            queue=settings.queue,
            engine=engine,
            metrics=self.metrics,
            link=self._link,
            coalesce_s=settings.coalesce_ms / 1000,
            engine_said=self._watch.said,
            gave_up=self._gave_up,
            succeeded=self._recorder.succeeded,
        )
        self.metrics.slots.set(self._batching.capacity)
        self.metrics.inflight.set_function(lambda: len(self._runs))

    # ------------------------------------------------------------------ life

    async def run(self) -> None:
        """Work until `stop`.

        Raises:
            BadSettings: The engine cannot start.
            WatchdogGaveUp: See there; and whatever else broke one of the loops.
        """
        steady = [self._guarded(self._pulse())]
        try:
            await self._unless_stopped(self._engine.start())
            steady += [self._guarded(self._watch.run()), self._guarded(self._watchdog_loop())]
            self._start_loops()
            await self._stopping.wait()
            await self._drain()
        finally:
            await _end(*steady)
            await _end(*self._loops)
            await self._engine.aclose()
            for store in (*self._old_stores, self._store):
                await store.aclose()
            log.info("worker ended", extra={"worker_id": self.settings.worker_id})
        if self._fault is not None:
            raise self._fault

    def stop(self) -> None:
        """End: the first call lets running jobs finish for a while, the second releases them."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()
        self._changed.set()

    def _break(self, fault: Exception) -> None:
        self._fault = self._fault or fault
        self._hurry.set()
        self.stop()

    def _guarded(self, loop: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A loop as a task; if it breaks, the worker ends rather than live on without it."""

        async def run() -> None:
            try:
                await loop
            except Exception as exc:
                log.exception("worker loop broke", extra={"worker_id": self.settings.worker_id})
                self._break(exc)

        return asyncio.create_task(run())

    def _start_loops(self) -> None:
        upkeep = Heartbeat(
            self._store,
            self.settings,
            engine=self._engine,
            watch=self._watch,
            link=self._link,
            runs=self._runs,
            capacity=self._batching.capacity,
        )
        self._loops = [
            self._guarded(loop)
            for loop in (self._claim_loop(), *upkeep.loops(), self._recorder.run(self._store))
        ]

    async def _drain(self) -> None:
        """Let the running jobs finish within the grace; hand the others back."""
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
        self._ending_s = time.monotonic()
        # A claim that was under way when the signal came may still bring jobs: they are released
        # in `_start`. It has to be awaited, or they would be missing until their lease ends.
        if self._loops:
            await asyncio.wait({self._loops[0]}, timeout=_LAST_WORDS_S)
        while self._tasks:
            for run in list(self._runs.values()):
                run.abort(Abort.RELEASE)
            await asyncio.wait(self._tasks, timeout=_LAST_WORDS_S)
            if self._gave_up():
                break

    def _gave_up(self) -> bool:
        return self._ending_s is not None and time.monotonic() - self._ending_s > _LAST_WORDS_S

    async def _unless_stopped(self, work: Awaitable[Any]) -> None:
        """Await `work`, which is cancelled as soon as the worker is told to stop."""
        task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
        finally:
            await _end(task, stopping)

    # ------------------------------------------------------------------ claiming

    @property
    def _may_claim(self) -> bool:
        return self._watch.ready and not self._stopping.is_set()

    async def _claim_loop(self) -> None:
        backoff, empty = Backoff(), False
        while not self._stopping.is_set():
            if not self._may_claim or self._batching.room(len(self._runs)) <= 0:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                if empty:
                    await self._unless_stopped(self._wait_for_work(_WAIT_S))
                empty = await self._claim_some() if self._may_claim else False
            except StoreUnavailable as exc:
                self._link.failed(exc)
                await self._unless_stopped(asyncio.sleep(backoff.next_s()))
            else:
                backoff.reset()

    async def _wait_for_work(self, timeout_s: float) -> None:
        # A floor, because to Redis a timeout of 0 means for ever.
        await self._store.wait_for_work(self.settings.queue, max(0.01, timeout_s))

    async def _claim_some(self) -> bool:
        """Fill the free slots; whether the line was empty behind that."""
        if self._batching.mode is BatchingMode.STATIC:
            return await self._claim_batch()
        room = self._batching.room(len(self._runs))
        claims = await self._claim(room)
        self._start(claims)
        return len(claims) < room

    async def _claim(self, count: int) -> list[Claim]:
        if count <= 0:
            return []
        claims = await self._store.claim(
            self.settings.queue, worker_id=self.settings.worker_id, count=count
        )
        self._link.worked()
        return claims

    async def _claim_batch(self) -> bool:
        """Gather a batch for at most `wait_ms` from its first job, then let it go as a whole."""
        gate, begun, ends = asyncio.Event(), 0, 0.0
        try:
            while not self._stopping.is_set():
                room = self._batching.room(begun, filling=True)
                claims = await self._claim(room)
                self._start(claims, gate)
                if not begun:
                    ends = time.monotonic() + self._batching.wait_ms / 1000
                begun += len(claims)
                left = ends - time.monotonic()
                if not begun or begun >= self._batching.capacity or left <= 0:
                    return not begun
                if len(claims) < room:
                    await self._unless_stopped(self._wait_for_work(left))
            return False
        finally:
            if not self._stopping.is_set():
                gate.set()

    def _make_endings(self) -> CompletionBatcher:
        return CompletionBatcher(
            self._store,
            queue=self.settings.queue,
            worker_id=self.settings.worker_id,
            slots=self._batching.capacity,
            may_claim=lambda: self._may_claim and self._batching.hands_on,
            begin=self._start,
        )

    def _start(self, claims: Sequence[Claim], gate: asyncio.Event | None = None) -> None:
        """Begin with claimed jobs; one that comes when we already stop is handed back at once."""
        if not claims:
            return
        self._watchdog.claimed()
        self.metrics.claims.inc(len(claims))
        for claim in claims:
            run = JobRun(claim, self._endings, self._context, gate)
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
            # The outermost frame of a job: what reaches it came from the store's side.
            log.exception("job broke", extra={"job_id": run.claim.lease.job_id})
            self._break(exc)
        if self._runs.get(run.claim.lease.job_id) is run:
            del self._runs[run.claim.lease.job_id]
        self._changed.set()

    # ------------------------------------------------------------------ the other loops

    async def _pulse(self) -> None:
        """Show /healthz that the event loop turns."""
        while True:
            self.metrics.turned_s = time.monotonic()
            await asyncio.sleep(1.0)

    async def _watchdog_loop(self) -> None:
        while True:
            await asyncio.sleep(self.settings.watchdog_s / 5)
            starving = False
            if self._may_claim and self._batching.room(len(self._runs)) > 0:
                try:
                    line = await self._store.stats(self.settings.queue)
                    starving = line.depth > 0 and line.mode is not Mode.PAUSED
                except StoreUnavailable as exc:
                    self._link.failed(exc)
            verdict = self._watchdog.look(time.monotonic(), starving=starving)
            if verdict is Verdict.RECONNECT:
                await self._reconnect()
            elif verdict is Verdict.GIVE_UP:
                raise WatchdogGaveUp(
                    f"Work waits in {self.settings.queue!r} and slots are free, but nothing was "
                    "claimed, even over new connections. The worker must be started afresh."
                )

    async def _reconnect(self) -> None:
        """Open new connections, and begin to claim anew on them.

        Running jobs keep the old store until they end: it counts the pieces that they emitted.
        """
        log.error(
            "watchdog: nothing is claimed, reconnecting", extra={"queue": self.settings.queue}
        )
        self.metrics.watchdog_reconnects.inc()
        await _end(*self._loops)
        self._old_stores.append(self._store)
        self._store = self._open_store()
        self._endings = self._make_endings()
        in_use = {id(run.store) for run in self._runs.values()}
        for store in [old for old in self._old_stores if id(old) not in in_use]:
            self._old_stores.remove(store)
            await store.aclose()
        self._start_loops()


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks until they have ended: redis-py can swallow a cancellation (redis-py #2624).

    Not again too soon: that would break off what they close on their way out.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=3.0)
