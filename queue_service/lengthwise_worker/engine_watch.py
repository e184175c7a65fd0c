"""Decides whether the engine may get work: it is healthy, and no pause that it requested runs.

Called by worker.py, and by job_run.py after each call of the engine.
"""

from __future__ import annotations

import asyncio
import logging
import random

from lengthwise_worker.engines.base import Engine
from lengthwise_worker.errors import EngineBusy, EngineError, EngineUnavailable
from lengthwise_worker.metrics import Metrics
from lengthwise_worker.outcomes import busy_delay_ms

log = logging.getLogger(__name__)

#: Between two probes of a healthy engine, and of an unhealthy one, s.
_HEALTHY_S, _UNHEALTHY_S = 5.0, 0.5

#: A loaded engine may miss one probe; after this many in a row it is unhealthy.
_MISSES = 2


class EngineWatch:
    """Probes the engine, and counts its refusals. `changed` is set at every change."""

    def __init__(self, engine: Engine, metrics: Metrics, changed: asyncio.Event) -> None:
        self._engine, self._metrics, self._changed = engine, metrics, changed
        self._healthy = asyncio.Event()
        self._probe_now = asyncio.Event()
        self._busy_in_a_row = 0
        self._pause: asyncio.TimerHandle | None = None

    @property
    def ready(self) -> bool:
        """Whether the engine may get work now."""
        return self._healthy.is_set() and self._pause is None

    async def wait_until_ready(self) -> None:
        """Wait until the engine is healthy for the first time."""
        await self._healthy.wait()

    async def run(self) -> None:
        """Probe the engine until cancelled."""
        misses = 0
        while True:
            self._probe_now.clear()
            healthy = await self._engine.healthy()
            misses = 0 if healthy else misses + 1
            if healthy:
                self._set(healthy=True)
            elif misses >= _MISSES:
                self._set(healthy=False)
            try:
                async with asyncio.timeout(_HEALTHY_S if healthy else _UNHEALTHY_S):
                    await self._probe_now.wait()
            except TimeoutError:
                pass

    def call_ended(self, error: EngineError | None) -> int:
        """Note how a call ended, and return how long to pause, ms."""
        if not isinstance(error, EngineBusy | EngineUnavailable):
            self._busy_in_a_row = 0
            return 0
        retry_after_s = error.retry_after_s if isinstance(error, EngineBusy) else None
        chance = random.random()  # noqa: S311 - spreads load, keeps no secret
        delay_ms = busy_delay_ms(retry_after_s, in_a_row=self._busy_in_a_row, chance=chance)
        if isinstance(error, EngineUnavailable):
            self._set(healthy=False)
            self._probe_now.set()
        elif self._pause is None:
            # Of many calls that were refused together, only the first counts.
            self._busy_in_a_row += 1
            self._pause = asyncio.get_running_loop().call_later(delay_ms / 1000, self._resume)
            log.warning("engine busy", extra={"status": error.status, "pause_ms": delay_ms})
        return delay_ms

    def _resume(self) -> None:
        self._pause = None
        self._changed.set()

    def _set(self, *, healthy: bool) -> None:
        if healthy == self._healthy.is_set():
            return
        if healthy:
            self._healthy.set()
            log.info("engine healthy", extra={"engine": self._engine.kind})
        else:
            self._healthy.clear()
            log.warning("engine unhealthy, not claiming", extra={"engine": self._engine.kind})
        self._metrics.engine_healthy.set(healthy)
        self._changed.set()
