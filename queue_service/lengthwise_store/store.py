"""The store of jobs: one method per event, one Lua script per method. Redis alone holds the state.

Called by the HTTP routes (submit, cancel, reads) and by the worker (claim, beat, emit, finish).
Here: the events of a job's life, which are the rows of lengthwise_contract/states.py; `tick` is in
queue_control.py. The other methods of `JobStore` are in reads.py, listings.py, waits.py and
training_log.py; what all of them share is in base.py.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_views import WorkerView
from lengthwise_contract.states import Event, JobState
from lengthwise_store.codec.jobs import (
    read_claims,
    read_submitted,
    write_cost,
    write_number,
    write_optional,
    write_price,
)
from lengthwise_store.codec.learning import write_view
from lengthwise_store.codec.pieces import grouped, parts, write_completion
from lengthwise_store.codec.prediction import write_learning, write_quantiles
from lengthwise_store.errors import NotConfirmed, StoreUnavailable
from lengthwise_store.jobs import (
    Accepted,
    Claim,
    Completion,
    Finished,
    Lease,
    LeaseState,
    NewJob,
    Outcome,
    Submitted,
)
from lengthwise_store.keys import QueueKeys
from lengthwise_store.listings import JobListings
from lengthwise_store.pipeline import ScriptCall
from lengthwise_store.prediction_record import UNKNOWN_BASIS, Basis
from lengthwise_store.queue_control import QueueControl
from lengthwise_store.redis.settings import RedisAddress
from lengthwise_store.settings import StoreSettings
from lengthwise_store.waits import JobWaits

log = logging.getLogger(__name__)

#: Takes the place of a count of pieces: more than any server has, so that every script returns
#: "lost". And how many such claims are remembered; a worker aborts a lost call within moments.
_LOST, _LOST_KEPT = 1 << 52, 1000

#: Jobs that one call claims, at most: about 5 ms of the server's time.
_CLAIMS = 500

#: The replies of finish.lua. A table, because calling the enum for each job would cost a worker
#: more than everything else here.
_ENDED: Mapping[bytes, JobState | None] = {s.value.encode(): s for s in JobState} | {b"lost": None}


class JobStore(JobListings, JobWaits, QueueControl):
    """Every queue of one Redis. One object per process; safe to share between tasks.

    Every method raises `StoreUnavailable` when Redis does not answer.
    """

    def __init__(
        self,
        redis_at: str | RedisAddress,
        settings: StoreSettings | None = None,
        *,
        now_ms: float | None = None,
        on_unconfirmed: Callable[[int], object] | None = None,
    ) -> None:
        """Connect on first use.

        Args:
            redis_at: Where Redis is: a `RedisAddress`, or a URL that holds all that one needs.
            settings: Times and bounds; the defaults suit production.
            now_ms: The scripts' clock, ms since the epoch, for tests alone, which also set the
                attribute of this name. None: the server's clock.
            on_unconfirmed: Called with the number of completions that were accepted without the
                confirmation that the durability asks for.
        """
        address = redis_at if isinstance(redis_at, RedisAddress) else RedisAddress.parse(redis_at)
        super().__init__(address, settings or StoreSettings(), now_ms)
        self._on_unconfirmed = on_unconfirmed or (lambda _: None)
        self._emitted: dict[str, int] = {}  #: By nonce: pieces so far, or `_LOST`.
        self._lost: deque[str] = deque()

    # ------------------------------------------------------------------ clients

    async def submit(self, queue: str, job: NewJob) -> Submitted:
        """Submit a job. Repeating it with the same id or idempotency key finds the same job.

        Raises:
            NotConfirmed: The job was written, but not as durably as configured.
        """
        k = QueueKeys(queue)
        keys = [
            k.job(job.id),
            k.body(job.id),
            k.idem(job.tenant, job.idempotency_key or ""),
            k.rate(job.tenant),
        ]
        quantiles, predictor = write_quantiles(job.prediction, job.basis)
        args = [
            job.id,
            job.body,
            job.tenant,
            write_cost(job.predicted_tokens),
            write_price(job),
            f"{job.max_attempts} {job.job_class} {job.endpoint} {job.request_id}".rstrip(),
            quantiles,
            predictor,
            job.delay_ms,
            job.ttl_ms,
            job.max_depth,
            write_optional(job.tenant_max_depth),
            write_optional(job.requests_per_minute),
            write_optional(job.tokens_per_minute),
            "1" if job.idempotency_key is not None else "",
            job.fingerprint,
            write_learning(job.basis),
            write_view(job.submission, job.basis),
        ]
        [reply], missing = await self._run_confirmed(self._call(k, Event.SUBMIT, keys, args))
        submitted = read_submitted(reply)
        if missing is not None and isinstance(submitted, Accepted):
            raise NotConfirmed(
                f"The job was written, but {missing}. Send it again: with an Idempotency-Key it is "
                "found again, without one it is withdrawn.",
                retry_after_s=1,
            )
        return submitted

    async def cancel(self, queue: str, job_id: str) -> JobState | None:
        """Cancel a job and return its state afterwards; None: there is no such job.

        A running job stays `running` until its worker has aborted it, which takes moments.

        Raises:
            NotConfirmed: The job was cancelled, but not as durably as configured.
        """
        k = QueueKeys(queue)
        call = self._call(k, Event.CANCEL, [k.job(job_id), k.control], [job_id])
        [reply], missing = await self._run_confirmed(call)
        if reply == b"unknown":
            return None
        if missing is not None:
            raise NotConfirmed(
                f"The job was cancelled, but {missing}. Cancel it again.", retry_after_s=1
            )
        return JobState(reply.decode())

    async def redrive(self, queue: str, job_id: str) -> JobState | None:
        """Queue a failed job again, with all its attempts, and return its state afterwards.

        None: there is no such job. FAILED: it cannot be served again, because its request is gone
        or unreadable.
        """
        k = QueueKeys(queue)
        keys = [k.job(job_id), k.body(job_id), k.out(job_id)]
        [reply] = await self._run(self._call(k, Event.REDRIVE, keys, [job_id]))
        if reply == b"unreadable":
            return JobState.FAILED
        return None if reply == b"unknown" else JobState(reply.decode())

    async def reprice(
        self,
        queue: str,
        job_id: str,
        *,
        slack_ms: float,
        predicted_tokens: float,
        predicted_ms: float,
        prediction: Prediction,
        basis: Basis = UNKNOWN_BASIS,
        submission: bytes = b"",
    ) -> float | None:
        """Give a waiting job another price; its new due time, or None: it no longer waits."""
        k = QueueKeys(queue)
        numbers = map(write_number, (slack_ms, predicted_tokens, predicted_ms))
        args = [job_id, write_cost(predicted_tokens), *numbers, *write_quantiles(prediction, basis)]
        args += [write_learning(basis), write_view(submission, basis)]
        [reply] = await self._run(self._call(k, Event.REPRICE, [k.job(job_id)], args))
        return float(reply[1]) if reply[0] == b"ok" else None

    # ------------------------------------------------------------------ workers

    async def claim(self, queue: str, *, worker_id: str, count: int) -> list[Claim]:
        """Claim up to `count` of the next jobs, each on a lease of `lease_ms`; never blocks."""
        claims: list[Claim] = []
        for first in range(0, count, _CLAIMS):
            call = self._claim_call(QueueKeys(queue), worker_id, min(_CLAIMS, count - first))
            try:
                [reply] = await self._run(call)
            except StoreUnavailable:
                if not claims:
                    raise
                break  # those that were claimed before must run
            claims += read_claims(reply)
            if len(claims) < first + _CLAIMS:
                break
        return claims

    def _claim_call(self, k: QueueKeys, worker_id: str, count: int) -> ScriptCall:
        args = [count, self.settings.lease_ms, uuid.uuid4().hex, worker_id]
        return self._call(k, Event.CLAIM, (), args)

    async def beat(
        self, queue: str, *, worker: WorkerView, leases: Sequence[Lease]
    ) -> dict[str, LeaseState]:
        """Extend all leases of a worker in one call, and return each lease's state by job id."""
        k = QueueKeys(queue)
        args: list[Any] = [
            k.prefix,
            self._now,
            self.settings.lease_ms,
            worker.id,
            worker.model_dump_json(),
        ]
        for lease in leases:
            args += [lease.job_id, lease.nonce]
        [reply] = await self._run((Event.BEAT, [k.leases, k.workers, k.worker_info], args))
        states = (LeaseState(state.decode()) for state in reply)
        return dict(zip((lease.job_id for lease in leases), states, strict=True))

    async def emit(self, queue: str, lease: Lease, chunks: Sequence[bytes]) -> LeaseState:
        """Append pieces of the answer to the job's stream, in order, and extend the lease."""
        first = self._emitted.get(lease.nonce, 0)
        state = await self._append(QueueKeys(queue), lease, first, parts(chunks))
        if state is LeaseState.LOST:
            # It stays lost: a server that lost pieces in a failover may still have the claim, and
            # would store the next piece as its first. A lost claim is never finished, so the oldest
            # ones are forgotten.
            self._emitted[lease.nonce] = _LOST
            self._lost.append(lease.nonce)
            if len(self._lost) > _LOST_KEPT:
                self._emitted.pop(self._lost.popleft(), None)
        else:
            self._emitted[lease.nonce] = first + len(chunks)
        return state

    async def _append(
        self, k: QueueKeys, lease: Lease, first: int, pieces: Sequence[Sequence[bytes]]
    ) -> LeaseState:
        """Append parts of pieces; repeating it with the same `first` appends nothing twice."""
        s, state = self.settings, LeaseState.HELD
        keys = [k.job(lease.job_id), k.out(lease.job_id), k.leases]
        for part in pieces:
            args = [self._now, lease.job_id, lease.nonce, s.lease_ms, s.max_output_entries, first]
            [reply] = await self._run((Event.EMIT, keys, [*args, *part]))
            state = LeaseState(reply.decode())
            if state is LeaseState.LOST:
                break
            first += len(part)
        return state

    async def finish(
        self,
        queue: str,
        lease: Lease,
        outcome: Outcome,
        *,
        chunks: Sequence[bytes] = (),
        worker_id: str,
        claim_next: int = 0,
    ) -> Finished:
        """End a claim, append the last `chunks` first, and claim up to `claim_next` more jobs."""
        completion = Completion(lease=lease, outcome=outcome, chunks=chunks)
        [state], claims = await self.finish_all(
            queue, [completion], worker_id=worker_id, claim_next=claim_next
        )
        return Finished(state=state, next_claims=claims)

    async def finish_all(
        self, queue: str, completions: Sequence[Completion], *, worker_id: str, claim_next: int = 0
    ) -> tuple[list[JobState | None], list[Claim]]:
        """End several claims in one round trip, and claim up to `claim_next` more jobs.

        Each end is one atomic step, and so is the claim behind them. Of a claim with many pieces,
        the first ones are appended before.

        Returns:
            The jobs' states, in the order of `completions`, None: the lease was lost. And the
            claims.
        """
        k = QueueKeys(queue)
        args = [await self._completion_args(k, completion) for completion in completions]
        keys = [k.lengths, k.evidence]
        calls = [self._call(k, Event.FINISH, keys, some) for some in grouped(args)]
        ends = len(calls)
        if claim_next > 0:
            calls.append(self._claim_call(k, worker_id, claim_next))
        replies, missing = await self._run_confirmed(*calls)
        if missing is not None:
            # It cannot be undone: the answer is in the stream, and its client may have read it.
            self._on_unconfirmed(len(completions))
            log.warning("completions not confirmed", extra={"queue": queue, "missing": missing})
        for completion in completions:
            self._emitted.pop(completion.lease.nonce, None)
        states = [_ENDED[state] for reply in replies[:ends] for state in reply]
        return states, read_claims(replies[ends]) if claim_next > 0 else []

    async def _completion_args(self, k: QueueKeys, completion: Completion) -> list[Any]:
        first = self._emitted.get(completion.lease.nonce, 0)
        *before, last = parts(completion.chunks)
        if before and first != _LOST:
            # The reply does not matter: `finish` knows whether the claim is lost, or has ended.
            await self._append(k, completion.lease, first, before)
            first += sum(map(len, before))
        return write_completion(completion, first, last)
