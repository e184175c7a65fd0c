"""Whether the engine is to be given work: it is well, and it did not just ask to be left alone.

Called by worker.py; `said` by job_run.py with how each call of the engine ended.
"""

from __future__ import annotations

import asyncio
import logging
import random

from lengthwise_worker.engines.base import Engine
from lengthwise_worker.errors import EngineAway, EngineBusy, EngineError
from lengthwise_worker.metrics import Metrics
from lengthwise_worker.outcomes import busy_delay_ms

log = logging.getLogger(__name__)

#: Between two probes of a well engine, and of one that is not (yet), s.
_WELL_S, _UNWELL_S = 5.0, 0.5

#: A loaded engine may miss one probe; so many in a row, and it is not well.
_MISSES = 2


class EngineWatch:
    """Probes the engine, and remembers what it said to calls. `changed` is set at every change."""

    def __init__(self, engine: Engine, metrics: Metrics, changed: asyncio.Event) -> None:
        self._engine, self._metrics, self._changed = engine, metrics, changed
        self._well = asyncio.Event()
        self._probe_now = asyncio.Event()
        self._busy_in_a_row = 0
        self._pause: asyncio.TimerHandle | None = None

    @property
    def ready(self) -> bool:
        """Whether it may be given work now."""
        return self._well.is_set() and self._pause is None

    async def wait_until_ready(self) -> None:
        """Until the engine is well for the first time."""
        await self._well.wait()

    async def run(self) -> None:
        """Probe for ever."""
        misses = 0
        while True:
            self._probe_now.clear()
            well = await self._engine.healthy()
            misses = 0 if well else misses + 1
            if well:
                self._set(well=True)
            elif misses >= _MISSES:
                self._set(well=False)
            try:
                async with asyncio.timeout(_WELL_S if well else _UNWELL_S):
                    await self._probe_now.wait()
            except TimeoutError:
                pass

    def said(self, error: EngineError | None) -> int:
        """Take note of how a call ended; how long to leave the engine alone, ms."""
        if not isinstance(error, EngineBusy | EngineAway):
            self._busy_in_a_row = 0
            return 0
        retry_after_s = error.retry_after_s if isinstance(error, EngineBusy) else None
        chance = random.random()  # noqa: S311 - spreads load, keeps no secret
        delay_ms = busy_delay_ms(retry_after_s, in_a_row=self._busy_in_a_row, chance=chance)
        if isinstance(error, EngineAway):
            self._set(well=False)
            self._probe_now.set()
        elif self._pause is None:
            # Of many calls that were refused together, the first counts.
            self._busy_in_a_row += 1
            self._pause = asyncio.get_running_loop().call_later(delay_ms / 1000, self._resume)
            log.warning("engine busy", extra={"status": error.status, "pause_ms": delay_ms})
        return delay_ms

    def _resume(self) -> None:
        self._pause = None
        self._changed.set()

    def _set(self, *, well: bool) -> None:
        if well == self._well.is_set():
            return
        if well:
            self._well.set()
            log.info("engine well", extra={"engine": self._engine.kind})
        else:
            self._well.clear()
            log.warning("engine unwell, not claiming", extra={"engine": self._engine.kind})
        self._metrics.engine_healthy.set(well)
        self._changed.set()
