"""Decides whether the engine may get work, and whose fault a failed call is.

The engine may get work while it is healthy and serves the worker's model, no pause that it
requested runs, and the breaker (breaker.py) lets jobs in. Called by worker.py, and by job_run.py
after each call of the engine. silence.py finds the calls that hang.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time

from lengthwise_contract.queue_views import WorkerState
from lengthwise_worker.breaker import Breaker
from lengthwise_worker.engines.base import Engine, Health
from lengthwise_worker.errors import EngineBusy, EngineError, EngineRefused, EngineUnavailable
from lengthwise_worker.metrics import Metrics
from lengthwise_worker.outcomes import Blame, busy_delay_ms

log = logging.getLogger(__name__)

#: Between two checks of a healthy engine, and of an unhealthy one, s.
_HEALTHY_S, _UNHEALTHY_S = 5.0, 0.5

#: A loaded engine may miss one check; after this many in a row it is unhealthy.
_MISSES = 2

#: After a failed probe and before the second one, s: one failure may be chance.
_BETWEEN_PROBES_S = 0.3

#: A replica that failed a job, and answered none for this long, claims nothing for a while, so that
#: another replica gets the job, s.
_IDLE_S, _HOLD_S = 5.0, 2.5

#: Longest text of a problem, characters.
_LONGEST_PROBLEM = 300


class EngineWatch:
    """Checks and probes the engine, and counts its failures. `changed` is set at every change."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        changed: asyncio.Event,
        *,
        capacity: int,
        timeout_s: float,
    ) -> None:
        """`capacity`: the worker's slots. `timeout_s`: longest silence inside one answer, s."""
        self._engine, self._metrics, self._changed = engine, metrics, changed
        self.breaker = Breaker(capacity)
        self.health = Health()
        self._known, self._healthy, self._misses = False, False, 0
        self._check_now = asyncio.Event()
        self._busy_in_a_row = 0
        self._pause: asyncio.TimerHandle | None = None
        self._hold: asyncio.TimerHandle | None = None
        self._verifying: asyncio.Task[str | None] | None = None
        self._proven = False  #: A call has succeeded since the last one that failed.
        self._longest_s = timeout_s
        self.patience_s = min(engine.patience_s, timeout_s)  #: Longest time of one probe, s.
        self.active_s = time.monotonic()  #: When the engine last sent a piece or an answer.
        self._answered_s = -_IDLE_S
        self._shown: tuple[WorkerState, str | None] = ("starting", None)
        metrics.show_engine(*self._shown)

    # ------------------------------------------------------------------ what it knows

    @property
    def ready(self) -> bool:
        """Whether the engine may get work now."""
        return self.state == "ready" and self._verifying is None and self._hold is None

    def room(self, running: int) -> float:
        """Return how many more jobs it may get. `running`: the jobs that are claimed."""
        return self.breaker.room(running) if self.ready else 0

    @property
    def state(self) -> WorkerState:
        """What the worker publishes."""
        if not self._healthy:
            return "away" if self._known else "starting"
        if self.breaker.is_open:
            return "failing"
        return "ready" if self._pause is None else "busy"

    @property
    def problem(self) -> str | None:
        """Why the engine gets no work, in words; None: it gets work."""
        if not self._healthy:
            return self.health.problem if self._known else None
        return self.breaker.problem

    def seems_slow(self, seconds: float) -> None:
        """Note how long a well engine was silent, s: it gets more time from now on."""
        self.patience_s = min(self._longest_s, max(self.patience_s, 2 * seconds))

    # ------------------------------------------------------------------ health

    async def run(self) -> None:
        """Check the engine until cancelled, and probe it while the breaker is open."""
        while True:
            self._check_now.clear()
            await self._check_health()
            due_s = self.breaker.probe_due_s(time.monotonic())
            if due_s == 0 and self._healthy:
                problem = await self.probe_problem(busy_counts=True)
                self.breaker.probed(problem, time.monotonic())
                due_s = self.breaker.probe_due_s(time.monotonic())
            self._show()
            pause_s = _UNHEALTHY_S if self._misses else _HEALTHY_S
            try:
                async with asyncio.timeout(min(pause_s, max(0.05, due_s or pause_s))):
                    await self._check_now.wait()
            except TimeoutError:
                pass

    async def _check_health(self) -> None:
        health = await self._engine.health()
        if health.problem is not None and not health.certain:
            # Its list of models says nothing. A real request does.
            problem = None if self._proven else await self.probe_problem()
            both = None if problem is None else f"{health.problem} {problem}"
            health = Health(problem=both, max_model_len=health.max_model_len)
        self.health = health
        self._misses = 0 if health.problem is None else self._misses + 1
        if health.problem is None:
            self._known = self._healthy = True
        elif self._misses >= _MISSES:
            self._known, self._healthy = True, False

    async def probe_problem(self, *, busy_counts: bool = False) -> str | None:
        """Have the engine generate one token; None: it did, else what is wrong, in words.

        A busy engine is well, unless `busy_counts`. So is one that is too slow for the probe while
        it sends pieces of answers.
        """
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self.patience_s):
                await self._engine.probe()
        except EngineBusy as exc:
            return f"The engine is busy: it answers {exc.status}." if busy_counts else None
        except EngineError as exc:
            return described(exc)
        except TimeoutError:
            if self.active_s > began_s:
                return None
            return f"The engine did not generate one token within {self.patience_s:g} s."
        self.seems_slow(time.monotonic() - began_s)
        self._proven = True
        return None

    async def _verify(self) -> str | None:
        """Probe the engine after a failure; failures that come together share the probes."""
        if self._verifying is None:
            self._verifying = asyncio.create_task(self._probe_twice())
            self._verifying.add_done_callback(self._verified)
        return await asyncio.shield(self._verifying)

    async def _probe_twice(self) -> str | None:
        began_s = time.monotonic()
        problem = await self.probe_problem()
        if problem is None or time.monotonic() - began_s >= self.patience_s:
            return problem
        await asyncio.sleep(_BETWEEN_PROBES_S)
        return await self.probe_problem()

    def _verified(self, _: asyncio.Task[str | None]) -> None:
        self._verifying = None
        self._changed.set()

    # ------------------------------------------------------------------ calls

    async def call_ended(
        self, job_id: str, error: EngineError | None, *, alone: bool = False
    ) -> Blame:
        """Note how a call ended, and return whose fault a failure is.

        Args:
            job_id: Of the call.
            error: Why it failed; None: it was answered.
            alone: Whether the engine worked on nothing else.
        """
        self.active_s = now_s = time.monotonic()
        if error is None:
            self._busy_in_a_row, self._proven, self._answered_s = 0, True, now_s
            self.breaker.answered()
            if self.breaker.on_trial:
                self._changed.set()
            return Blame.REQUEST
        if isinstance(error, EngineBusy):
            self._be_busy(error)
            return Blame.REPLICA
        if isinstance(error, EngineRefused) and error.status != 404:
            self._busy_in_a_row = 0
            return Blame.REQUEST
        self._proven = False
        self._metrics.engine_failures.inc()
        if isinstance(error, EngineUnavailable):
            self.trip(described(error))
            return Blame.REPLICA
        alone = alone and self.breaker.on_trial
        problem = await self._verify()
        if problem is not None:
            self.trip(problem)
            return Blame.JOB if alone and not isinstance(error, EngineRefused) else Blame.REPLICA
        if isinstance(error, EngineRefused):
            return Blame.REQUEST  # it knows its own model; it is the request that asks for another
        return self._failed(job_id, alone=alone)

    def _failed(self, job_id: str, *, alone: bool) -> Blame:
        """Note a failed job of an engine whose probe succeeds."""
        failed_alone = self.breaker.job_failed(
            job_id, "Jobs fail one after another, although probes succeed.", time.monotonic()
        )
        if not self.breaker.is_open and time.monotonic() - self._answered_s > _IDLE_S:
            if self._hold is not None:
                self._hold.cancel()
            self._hold = asyncio.get_running_loop().call_later(_HOLD_S, self._end_hold)
        self._show()
        return Blame.JOB if failed_alone or alone else Blame.REPLICA

    def trip(self, problem: str) -> None:
        """Open the breaker: nothing is claimed until a probe succeeds."""
        self.breaker.trip(problem[:_LONGEST_PROBLEM], time.monotonic())
        self._show()
        self._check_now.set()

    def _be_busy(self, error: EngineBusy) -> None:
        if self._pause is not None:
            return  # of many calls that were refused together, only the first counts
        chance = random.random()  # noqa: S311 - spreads load, keeps no secret
        pause_ms = busy_delay_ms(error.retry_after_s, in_a_row=self._busy_in_a_row, chance=chance)
        self._busy_in_a_row += 1
        self._pause = asyncio.get_running_loop().call_later(pause_ms / 1000, self._resume)
        log.warning("engine busy", extra={"status": error.status, "pause_ms": pause_ms})

    def _resume(self) -> None:
        self._pause = None
        self._changed.set()

    def _end_hold(self) -> None:
        self._hold = None
        self._changed.set()

    def _show(self) -> None:
        """Log and export a change of the state."""
        shown = self.state, self.problem
        if shown == self._shown:
            return
        before, self._shown = self._shown[0], shown
        self._metrics.show_engine(*shown)
        self._changed.set()
        more = {"engine": self._engine.kind, "state": shown[0]}
        if shown[0] in ("ready", "busy"):
            if before not in ("ready", "busy"):
                log.info("engine healthy", extra=more)
        else:
            log.warning("engine gets no work", extra=more | {"problem": shown[1]})


def described(error: EngineError) -> str:
    """Describe an error for logs and metrics: without words of the engine about a key."""
    if isinstance(error, EngineUnavailable) and error.status in (401, 403):
        return (
            f"The engine rejects the API key with {error.status}: set "
            "LENGTHWISE_WORKER_ENGINE_API_KEY."
        )
    return error.message[:_LONGEST_PROBLEM]
