"""Runs one claimed job, from its claim to the report that ends it.

Called by worker.py, one task a job. The order of the output stream is kept because at most one
`emit` is in flight, and the pieces that it could not deliver come first in the next.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from lengthwise_contract.jobs import JobError
from lengthwise_contract.states import JobState
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import Claim, Completion, LeaseState, Outcome, OutcomeKind
from lengthwise_worker.backoff import Backoff, StoreLink
from lengthwise_worker.completion_batcher import CompletionBatcher
from lengthwise_worker.engine_watch import EngineWatch
from lengthwise_worker.engines.base import Engine, EngineResponse
from lengthwise_worker.errors import EngineError, EngineFailed
from lengthwise_worker.metrics import Metrics
from lengthwise_worker.outcomes import outcome_of

log = logging.getLogger(__name__)

#: This many pieces are sent as they arrive; later ones are gathered. More than the first, because
#: vLLM begins with a piece that holds only the role: the first token was gathered and came 25 ms
#: late.
_EAGER_PIECES = 3


class Abort(StrEnum):
    """The reasons to abort the engine's work on a job."""

    CANCEL = "cancel"  #: No client wants the answer any more.
    LOST = "lost"  #: The job is no longer this worker's: send nothing more about it.
    RELEASE = "release"  #: The worker shuts down, or the engine hangs; another takes the job.
    STALLED = "stalled"  #: The engine stopped in the middle of the answer.


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """The objects that all jobs of a worker share.

    `watch` learns how each call of the engine ended, and says whose fault a failure is. `running()`
    is the number of claimed jobs. `gave_up()` is true when the process ends and nothing is to be
    tried any more. `job_succeeded(claim, outcome)` gets every answer that the store accepted.
    """

    queue: str
    engine: Engine
    metrics: Metrics
    link: StoreLink
    coalesce_s: float
    watch: EngineWatch
    running: Callable[[], int]
    gave_up: Callable[[], bool]
    job_succeeded: Callable[[Claim, Outcome], None]


class JobRun:
    """One running job. `store` stays the one of the claim, because it counts the emitted pieces."""

    def __init__(
        self,
        claim: Claim,
        completions: CompletionBatcher,
        context: JobContext,
        gate: asyncio.Event | None = None,
    ) -> None:
        """Start nothing yet; a job with a `gate` waits for it (a static batch that still fills)."""
        self.claim, self.store = claim, completions.store
        self._completions = completions
        self._context, self._gate = context, gate
        self._claimed_s = time.monotonic()
        self.called_s: float | None = None  #: Since when the engine is called; None: it is not.
        self.last_piece_s: float | None = None  #: When the engine sent the last piece.
        self._longest_gap_s = 0.0
        self._abort: Abort | None = None
        self._answering: asyncio.Task[object] | None = None
        self._buffer: list[bytes] = []
        self._sent = 0
        self._emitting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._backoff = Backoff()

    @property
    def waits_for_batch(self) -> bool:
        """Whether the job waits for its static batch to start."""
        return self._gate is not None and not self._gate.is_set()

    def abort(self, why: Abort) -> None:
        """Abort the engine's work. Harmless if the answer is complete; LOST prevails."""
        if self._abort is None:
            self._abort = why
            if self._answering is not None:
                self._answering.cancel()
        elif why is Abort.LOST:
            self._abort = why

    def give_up_hung(self, *, engine_is_well: bool) -> None:
        """Abort a call that hangs: the engine hangs, or has stopped in the middle of this call."""
        self.abort(Abort.STALLED if engine_is_well else Abort.RELEASE)

    async def run(self) -> None:
        """Let the engine answer the job, and end its claim."""
        outcome, last = await self._answer()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._emitting is not None:
            await self._emitting
        if self._abort is Abort.LOST:
            self._lost()
        else:
            await self._finish(outcome, self._buffer + last)

    # ------------------------------------------------------------------ the engine

    async def _answer(self) -> tuple[Outcome, list[bytes]]:
        """Call the engine; return the outcome, and the body that is still to be delivered."""
        context, error = self._context, None
        task = asyncio.current_task()
        try:
            self._answering = task
            if self._abort is not None:
                raise asyncio.CancelledError  # aborted before the first turn of this task
            if self._gate is not None:
                await self._gate.wait()
            try:
                self.called_s = time.monotonic()
                answer = await context.engine.answer(self.claim, self._put)
            except EngineError as exc:
                error = exc
            except asyncio.CancelledError:
                if self._abort is not Abort.STALLED or task is None:
                    raise
                task.uncancel()
                error, self._abort = EngineFailed("The engine stopped within its answer."), None
            finally:
                self.called_s = None
            blame = await context.watch.call_ended(
                self.claim.lease.job_id, error, alone=context.running() <= 1
            )
        except asyncio.CancelledError:
            if self._abort is None or task is None:
                raise
            task.uncancel()
            cancelled = self._abort is Abort.CANCEL
            kind = OutcomeKind.CANCELLED if cancelled else OutcomeKind.RELEASE
            self._buffer.clear()
            return Outcome(kind=kind, service_ms=self._service_ms()), []
        except Exception:
            # The outermost frame of one job: a bug must not end the other jobs.
            log.exception("worker fault", extra={"job_id": self.claim.lease.job_id})
            fault = JobError(code="worker_fault", message="The worker met an internal error.")
            return Outcome(kind=OutcomeKind.RETRY, error=fault, delay_ms=1000), []
        finally:
            self._answering = None
        if error is None:
            context.watch.seems_slow(self._longest_gap_s)
            return self._done(answer)
        log.warning(
            "engine did not answer",
            extra=self._ids()
            | {"status": error.status, "cause": type(error).__name__, "blame": blame.value},
        )
        outcome = outcome_of(
            error,
            blame,
            attempt=self.claim.lease.attempt,
            service_ms=self._service_ms(),
            chance=random.random(),  # noqa: S311 - spreads load, keeps no secret
        )
        return outcome, []

    def _done(self, answer: EngineResponse) -> tuple[Outcome, list[bytes]]:
        metrics = self._context.metrics
        metrics.prompt_tokens.inc(answer.prompt_tokens or 0)
        metrics.output_tokens.inc(answer.output_tokens or 0)
        outcome = Outcome(
            kind=OutcomeKind.OK,
            output_tokens=answer.output_tokens,
            prompt_tokens=answer.prompt_tokens,
            service_ms=self._service_ms(),
            usage_details=answer.usage_details,
        )
        return outcome, [] if answer.body is None else [answer.body]

    def _service_ms(self) -> float:
        return (time.monotonic() - self._claimed_s) * 1000

    def _ids(self) -> dict[str, object]:
        lease = self.claim.lease
        return {"job_id": lease.job_id, "attempt": lease.attempt, "queue": self._context.queue}

    # ------------------------------------------------------------------ the output

    def _put(self, piece: bytes) -> None:
        """Take a piece of the answer: the first few are sent at once, later ones are gathered."""
        now_s = self._context.watch.active_s = time.monotonic()
        if self.last_piece_s is None:
            self._context.metrics.ttft.observe(now_s - (self.called_s or now_s))
        else:
            self._longest_gap_s = max(self._longest_gap_s, now_s - self.last_piece_s)
        self.last_piece_s = now_s
        self._buffer.append(piece)
        if self._timer is None and (self._emitting is None or self._emitting.done()):
            self._send()

    def _send(self) -> None:
        self._timer = None
        # Nothing after LOST: the store no longer counts the pieces of this claim, and would store
        # those that the engine still sends, until its call is closed, as the first ones.
        if self._buffer and not self._closed and self._abort is not Abort.LOST:
            self._emitting = asyncio.create_task(self._emit())

    async def _emit(self) -> None:
        """Deliver the gathered pieces; again after `coalesce_s`, or later during an outage."""
        context, pieces = self._context, self._buffer
        self._buffer = []
        pause_s = context.coalesce_s
        try:
            state = await self.store.emit(context.queue, self.claim.lease, pieces)
        except StoreUnavailable as exc:
            # The engine continues: the lease may outlast the outage; if not, the store returns
            # LOST.
            context.link.failed(exc)
            self._buffer[:0] = pieces
            pause_s = self._backoff.next_s()
        except Exception:
            self._buffer[:0] = pieces  # if it persists, `run` meets it again in `_finish`
            raise
        else:
            context.link.worked()
            self._backoff.reset()
            self.lease_changed(state)
            self._sent += len(pieces)
            if self._sent < _EAGER_PIECES:
                pause_s = 0.0
        if not self._closed:
            self._timer = asyncio.get_running_loop().call_later(pause_s, self._send)

    def lease_changed(self, state: LeaseState) -> None:
        """Abort the job if its lease is lost or its cancellation was requested."""
        if state is LeaseState.CANCEL:
            self.abort(Abort.CANCEL)
        elif state is LeaseState.LOST:
            self.abort(Abort.LOST)

    # ------------------------------------------------------------------ the end

    async def _finish(self, outcome: Outcome, chunks: list[bytes]) -> None:
        context = self._context
        completion = Completion(lease=self.claim.lease, outcome=outcome, chunks=chunks)
        first = True
        while True:
            try:
                state = await self._completions.complete(completion, claim=first)
                break
            except StoreUnavailable as exc:
                context.link.failed(exc)
                if context.gave_up():
                    log.warning(
                        "job left to its lease: the store is unavailable", extra=self._ids()
                    )
                    return
                first = False
                await asyncio.sleep(self._backoff.next_s())
        context.link.worked()
        if state is None:
            self._lost()
            return
        context.metrics.outcomes[outcome.kind].inc()
        if state is JobState.SUCCEEDED:
            context.job_succeeded(self.claim, outcome)
        if log.isEnabledFor(logging.INFO):
            log.info(
                "job finished",
                extra=self._ids()
                | {
                    "outcome": outcome.kind.value,
                    "state": state.value,
                    "output_tokens": outcome.output_tokens,
                    "service_ms": round(outcome.service_ms or 0.0, 1),
                },
            )

    def _lost(self) -> None:
        self._context.metrics.leases_lost.inc()
        log.warning("lease lost", extra=self._ids())
