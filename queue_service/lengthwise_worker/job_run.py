"""One claimed job, from its claim to the word that ends it.

Called by worker.py, one task a job. Order on the output stream is kept because at most one `emit`
is under way, and what it could not deliver goes first in the next.
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
from lengthwise_worker.engines.base import Engine, EngineResponse
from lengthwise_worker.errors import EngineError
from lengthwise_worker.metrics import Metrics
from lengthwise_worker.outcomes import outcome_of

log = logging.getLogger(__name__)

#: So many pieces go out as they come, later ones are gathered. Not just the first: vLLM begins with
#: a piece that holds nothing but the role, and the first token, gathered, came 25 ms late.
_EAGER_PIECES = 3


class Abort(StrEnum):
    """Why the engine's work on a job is given up."""

    CANCEL = "cancel"  #: The answer is no longer wanted.
    LOST = "lost"  #: The job is no longer ours: not a word more about it.
    RELEASE = "release"  #: We shut down; another worker shall have it.


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """What every job of a worker shares.

    `engine_said(error)` hears how each call of the engine ended (None: well), and says how long to
    leave it alone, ms; `gave_up()` is true when the process ends and no more is to be tried;
    `succeeded(claim, outcome)` hears of every answer that was accepted.
    """

    queue: str
    engine: Engine
    metrics: Metrics
    link: StoreLink
    coalesce_s: float
    engine_said: Callable[[EngineError | None], int]
    gave_up: Callable[[], bool]
    succeeded: Callable[[Claim, Outcome], None]


class JobRun:
    """See the module. `store` stays the one of the claim: it counts what was emitted."""

    def __init__(
        self,
        claim: Claim,
        endings: CompletionBatcher,
        context: JobContext,
        gate: asyncio.Event | None = None,
    ) -> None:
        """Nothing runs yet; a job with a `gate` waits for it (a static batch that still fills)."""
        self.claim, self.store = claim, endings.store
        self._endings = endings
        self._context, self._gate = context, gate
        self._claimed_s = time.monotonic()
        self._called_s: float | None = None
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
        """Whether the engine has not been called because the batch has not begun."""
        return self._gate is not None and not self._gate.is_set()

    def abort(self, why: Abort) -> None:
        """Give the engine's work up. Harmless when the answer is there already; LOST prevails."""
        if self._abort is None:
            self._abort = why
            if self._answering is not None:
                self._answering.cancel()
        elif why is Abort.LOST:
            self._abort = why

    async def run(self) -> None:
        """Have the job answered, and end its claim."""
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
        """How the call of the engine ended, and a body that is still to be delivered."""
        context, error = self._context, None
        task = asyncio.current_task()
        try:
            self._answering = task
            if self._abort is not None:
                raise asyncio.CancelledError  # aborted before this task got its first turn
            if self._gate is not None:
                await self._gate.wait()
            self._called_s = time.monotonic()
            answer = await context.engine.answer(self.claim, self._put)
        except asyncio.CancelledError:
            if self._abort is None or task is None:
                raise
            task.uncancel()
            cancelled = self._abort is Abort.CANCEL
            kind = OutcomeKind.CANCELLED if cancelled else OutcomeKind.RELEASE
            self._buffer.clear()
            return Outcome(kind=kind, service_ms=self._service_ms()), []
        except EngineError as exc:
            error = exc
        except Exception:
            # The outermost frame of one job: a fault of ours must not take the others with it.
            log.exception("worker fault", extra={"job_id": self.claim.lease.job_id})
            error_of_ours = JobError(code="worker_fault", message="The worker met a fault.")
            return Outcome(kind=OutcomeKind.RETRY, error=error_of_ours, delay_ms=1000), []
        finally:
            self._answering = None
        delay_ms = context.engine_said(error)
        if error is None:
            return self._done(answer)
        log.warning(
            "engine did not answer",
            extra=self._ids() | {"status": error.status, "cause": type(error).__name__},
        )
        outcome = outcome_of(
            error,
            attempt=self.claim.lease.attempt,
            service_ms=self._service_ms(),
            delay_ms=delay_ms,
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
        if self._called_s is not None:
            self._context.metrics.ttft.observe(time.monotonic() - self._called_s)
            self._called_s = None
        self._buffer.append(piece)
        if self._timer is None and (self._emitting is None or self._emitting.done()):
            self._send()

    def _send(self) -> None:
        self._timer = None
        # Not a word after LOST: the store no longer knows how many pieces came before, and would
        # take what the engine still sends, until its call is closed, for the first of them.
        if self._buffer and not self._closed and self._abort is not Abort.LOST:
            self._emitting = asyncio.create_task(self._emit())

    async def _emit(self) -> None:
        """Deliver what is there; look again after `coalesce_s`, or later if the store is away."""
        context, pieces = self._context, self._buffer
        self._buffer = []
        pause_s = context.coalesce_s
        try:
            state = await self.store.emit(context.queue, self.claim.lease, pieces)
        except StoreUnavailable as exc:
            # The engine goes on: the lease may outlive the outage, and if not we hear LOST.
            context.link.failed(exc)
            self._buffer[:0] = pieces
            pause_s = self._backoff.next_s()
        except Exception:
            self._buffer[:0] = pieces  # `run` meets it again in `finish`, if it lasts
            raise
        else:
            context.link.worked()
            self._backoff.reset()
            self.hear(state)
            self._sent += len(pieces)
            if self._sent < _EAGER_PIECES:
                pause_s = 0.0
        if not self._closed:
            self._timer = asyncio.get_running_loop().call_later(pause_s, self._send)

    def hear(self, state: LeaseState) -> None:
        """What the store says about this job's lease."""
        if state is LeaseState.CANCEL:
            self.abort(Abort.CANCEL)
        elif state is LeaseState.LOST:
            self.abort(Abort.LOST)

    # ------------------------------------------------------------------ the end

    async def _finish(self, outcome: Outcome, chunks: list[bytes]) -> None:
        context = self._context
        ending, first = Completion(lease=self.claim.lease, outcome=outcome, chunks=chunks), True
        while True:
            try:
                state = await self._endings.end(ending, claim=first)
                break
            except StoreUnavailable as exc:
                context.link.failed(exc)
                if context.gave_up():
                    log.warning("job left to its lease: the store is away", extra=self._ids())
                    return
                first = False
                await asyncio.sleep(self._backoff.next_s())
        context.link.worked()
        if state is None:
            self._lost()
            return
        context.metrics.outcomes[outcome.kind].inc()
        if state is JobState.SUCCEEDED:
            context.succeeded(self.claim, outcome)
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
