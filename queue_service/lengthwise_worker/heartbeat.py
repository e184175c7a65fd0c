"""The loops that keep a worker's leases: heartbeats, ticks, cancellations.

One `Heartbeat` for each set of connections: worker.py starts its loops, and those of a new one when
the watchdog reconnects.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Mapping
from typing import Any

from lengthwise_contract.queue_views import WorkerView
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.store import JobStore
from lengthwise_worker.backoff import Backoff, StoreLink
from lengthwise_worker.engine_watch import EngineWatch
from lengthwise_worker.engines.base import Engine
from lengthwise_worker.job_run import JobRun
from lengthwise_worker.settings import Settings

log = logging.getLogger(__name__)

#: The pause after a tick that failed for another reason than an outage, s.
_FAULT_PAUSE_S = 10.0

#: How long one wait for a hint lasts, s.
_HINT_WAIT_S = 2.0

#: Between two times that the facts of the engine are published, s.
_PUBLISH_S = 5.0


class Heartbeat:
    """Keeps the leases of `runs`, the worker's table of running jobs by id; it only reads it."""

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        *,
        engine: Engine,
        watch: EngineWatch,
        link: StoreLink,
        runs: Mapping[str, JobRun],
        capacity: int,
    ) -> None:
        self._store, self._settings, self._engine = store, settings, engine
        self._watch, self._link, self._runs, self._capacity = watch, link, runs, capacity
        self._beat_now = asyncio.Event()

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """Return the loops; the caller runs each as a task until it cancels it."""
        return [self.beat(), self.tick(), self.watch_cancellations(), self.publish_engine_facts()]

    async def beat(self) -> None:
        """Extend all leases in one call, and abort the jobs that are cancelled or lost."""
        s, backoff = self._settings, Backoff(cap_s=max(0.1, self._settings.beat_ms / 1000))
        while True:
            self._beat_now.clear()
            runs = list(self._runs.values())
            view = WorkerView(
                id=s.worker_id,
                slots=self._capacity if self._watch.state in ("ready", "busy") else 0,
                running=len(runs),
                engine=self._engine.kind,
                seen_ms=0,
                state=self._watch.state,
                problem=self._watch.problem,
            )
            try:
                states = await self._store.beat(
                    s.queue, worker=view, leases=[run.claim.lease for run in runs]
                )
            except StoreUnavailable as exc:
                self._link.failed(exc)
                await asyncio.sleep(backoff.next_s())
                continue
            self._link.worked()
            backoff.reset()
            for run in runs:
                run.lease_changed(states[run.claim.lease.job_id])
            try:
                async with asyncio.timeout(s.beat_ms / 1000):
                    await self._beat_now.wait()
            except TimeoutError:
                pass

    async def tick(self) -> None:
        """Tick the queue; of all workers' calls the store acts on one in each tick interval."""
        s, backoff = self._settings, Backoff()
        while True:
            try:
                report = await self._store.tick(s.queue)
            except StoreUnavailable as exc:
                self._link.failed(exc)
                await asyncio.sleep(backoff.next_s())
                continue
            except Exception:
                # A record that the tick cannot read must not end every worker of the queue: they
                # would start again, and end again.
                log.exception("tick failed", extra={"queue": s.queue})
                await asyncio.sleep(_FAULT_PAUSE_S)
                continue
            backoff.reset()
            if report is not None and (moved := {k: v for k, v in vars(report).items() if v}):
                log.info("tick", extra={"queue": s.queue} | moved)
            await asyncio.sleep(s.tick_ms / 1000 * random.uniform(0.9, 1.1))  # noqa: S311

    async def watch_cancellations(self) -> None:
        """Send the next heartbeat at once when a running job may have been cancelled."""
        backoff = Backoff()
        while True:
            try:
                hinted = await self._store.cancellations(self._settings.queue, _HINT_WAIT_S)
            except StoreUnavailable as exc:
                self._link.failed(exc)
                await asyncio.sleep(backoff.next_s())
                continue
            backoff.reset()
            if not self._runs.keys().isdisjoint(hinted):
                self._beat_now.set()

    async def publish_engine_facts(self) -> None:
        """Publish the context of the model, again when it is gone; the queue may come later."""
        published = None
        while True:
            tokens = self._watch.health.max_model_len
            if tokens is not None and self._watch.health.problem is None:
                try:
                    done = await self._store.publish_engine_facts(
                        self._settings.queue, self._settings.worker_id, {"max_model_len": tokens}
                    )
                except StoreUnavailable as exc:
                    self._link.failed(exc)
                else:
                    if done and tokens != published:
                        published = tokens
                        log.info("max_model_len published", extra={"max_model_len": tokens})
            await asyncio.sleep(_PUBLISH_S if published is not None else 0.2)
