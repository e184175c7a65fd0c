"""Finds calls of the engine that hang, long before their timeout.

An engine may accept requests and never answer, or stop in the middle of all its answers. Each call
alone looks like a slow one. But when nothing at all comes from the engine for a while, a probe of
one token tells: if that does not come either, all jobs go back to the queue. If it does, streams
that have begun and stay silent twice as long are given up as failed calls.

How long is a guess at first, so each wrong one doubles it, up to the timeout of a call; and an
engine that was seen to be slow gets more. Called by worker.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from lengthwise_worker.engine_watch import EngineWatch

#: Between two looks at the running calls, s.
_LOOK_S = 0.5

#: This many probes that failed in a row, during one silence, are a hang.
_FAILED_PROBES = 3


class RunningCall(Protocol):
    """A call of the engine, as JobRun shows it."""

    @property
    def called_s(self) -> float | None:
        """When the engine was called, by the monotonic clock; None: it is not called now."""

    @property
    def last_piece_s(self) -> float | None:
        """When its last piece came; None: none came yet."""

    def give_up_hung(self, *, engine_is_well: bool) -> None:
        """Abort the call: the engine hangs, or is well and has stopped in the middle of it."""


class SilenceWatch:
    """Watches the running calls of one worker.

    Args:
        watch: Probes the engine.
        calls: The running jobs.
    """

    def __init__(self, watch: EngineWatch, calls: Callable[[], Iterable[RunningCall]]) -> None:
        self._watch, self._calls = watch, calls
        self._probed_s, self._failed = 0.0, 0

    async def run(self) -> None:
        """Look at the calls until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            calls = [call for call in self._calls() if call.called_s is not None]
            silent_s = self._silent_s(calls)
            if silent_s < self._watch.patience_s:
                self._failed = 0
            else:
                await self._look(calls, silent_s)

    def _silent_s(self, calls: list[RunningCall]) -> float:
        """Return for how long nothing came, though something was expected, s."""
        if not calls:
            return 0.0
        oldest = min(call.called_s for call in calls if call.called_s is not None)
        return time.monotonic() - max(oldest, self._watch.active_s)

    async def _look(self, calls: list[RunningCall], silent_s: float) -> None:
        watch = self._watch
        if time.monotonic() - self._probed_s >= watch.patience_s:
            began_s, patience_s = time.monotonic(), watch.patience_s
            problem = await watch.probe_problem()
            self._probed_s = time.monotonic()
            if watch.active_s > began_s:
                return
            if problem is not None:
                self._failed += 1
                watch.trip(problem)
                if self._probed_s - began_s >= patience_s or self._failed >= _FAILED_PROBES:
                    self._give_up(calls, engine_is_well=False)
                return
            self._failed = 0
        limit_s = 2 * watch.patience_s
        if silent_s >= limit_s:
            now_s = time.monotonic()
            stalled = [c for c in calls if c.last_piece_s and now_s - c.last_piece_s >= limit_s]
            self._give_up(stalled, engine_is_well=True)

    def _give_up(self, calls: list[RunningCall], *, engine_is_well: bool) -> None:
        for call in calls:
            call.give_up_hung(engine_is_well=engine_is_well)
        if calls:
            self._watch.seems_slow(self._watch.patience_s)  # doubles it: the guess may be wrong
