"""One stream through the real queue: its store and scripts on a real Valkey, its prices, its watch.

Only time is made up: the store's clock is set from event to event, so an hour of traffic takes
seconds and a busy machine changes nothing. Called by `lengthwise bench drift`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.queue_views import WorkerView
from lengthwise_lab.drift.streams import StreamRequest
from lengthwise_lab.errors import LabError
from lengthwise_queue.background import fallback_controller
from lengthwise_queue.prediction import quality
from lengthwise_queue.prediction.accuracy import coverage
from lengthwise_queue.scheduling import pricing
from lengthwise_queue.scheduling.snapshot import MAX_AGE_S, QueueCache, QueueSnapshot
from lengthwise_store.jobs import Accepted, Claim, NewJob, Outcome, OutcomeKind
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore

#: Where the made-up clock begins, ms since the epoch. Real ones would do as well.
_EPOCH_MS = 1_700_000_000_000.0

#: Nothing may run out by the made-up clock; what is in Redis goes with its server.
_TIMES = StoreSettings(lease_ms=10**9, worker_ttl_ms=10**9)


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What the watch saw, and what it left behind."""

    at_s: float
    accepted: int
    answered: int
    fallback: bool
    rank_accuracy: float | None
    coverage: float | None
    raw_coverage: float | None
    calibration_factor: float


@dataclass(kw_only=True)
class Outcomes:
    """A stream, served one way."""

    completion_s: list[float]  #: By request: from its arrival to its end.
    looks: list[Observation] = field(default_factory=list)


async def serve(
    redis_url: str,
    requests: Sequence[StreamRequest],
    settings: QueueSettings,
    *,
    queue: str,
    slots: int,
    ms_per_token: float,
) -> Outcomes:
    """Serve a stream.

    Args:
        redis_url: A server of our own; `queue` must not be on it.
        requests: By time of arrival.
        settings: Of the queue: its policy, and whether its predictor is watched.
        queue: What to call it.
        slots: Answers at once.
        ms_per_token: What a token takes, whoever else is served.
    """
    store = JobStore(redis_url, _TIMES, now_ms=_EPOCH_MS)
    try:
        await store.put_queue(queue, settings)
        view = WorkerView(id="w", slots=slots, running=0, engine="drift", seen_ms=0)
        await store.beat(queue, worker=view, leases=[])
        run = _Run(store, requests, settings, queue=queue, slots=slots, ms_per_token=ms_per_token)
        return await run.through()
    finally:
        await store.aclose()


class _Run:
    def __init__(
        self,
        store: JobStore,
        requests: Sequence[StreamRequest],
        settings: QueueSettings,
        *,
        queue: str,
        slots: int,
        ms_per_token: float,
    ) -> None:
        self._watched = settings.policy == "sjf" and settings.min_rank_accuracy is not None
        self._store, self._requests, self._queue = store, requests, queue
        self._book = QueueCache(store)
        self._watch = fallback_controller.FallbackController(store, self._book)
        self._free, self._ms_per_token = slots, ms_per_token
        self._running: list[tuple[float, int, Claim]] = []
        self._order = itertools.count()
        self._answered = 0
        self._snapshot: QueueSnapshot | None = None
        self._snapshot_s = 0.0
        self._out = Outcomes(completion_s=[0.0] * len(requests))

    async def through(self) -> Outcomes:
        """From the first arrival to the last end, event by event."""
        look_s, next_in = fallback_controller.EVERY_S if self._watched else float("inf"), 0
        while next_in < len(self._requests) or self._running:
            arrival_s = (
                self._requests[next_in].at_s if next_in < len(self._requests) else float("inf")
            )
            end_s = self._running[0][0] if self._running else float("inf")
            now_s = min(arrival_s, end_s, look_s)
            self._store.now_ms = _EPOCH_MS + 1000 * now_s
            if now_s == look_s:
                await self._look(look_s, next_in)
                look_s += fallback_controller.EVERY_S
            elif now_s == end_s:
                await self._end(now_s)
            else:
                await self._submit(next_in, now_s)
                next_in += 1
        return self._out

    async def _submit(self, index: int, now_s: float) -> None:
        request = self._requests[index]
        snapshot = await self._current_snapshot(now_s)
        said = Prediction(
            model_version="drift",
            p10_tokens=request.p10_tokens,
            p50_tokens=request.p50_tokens,
            p90_tokens=request.p90_tokens,
            mean_tokens=request.p50_tokens,
            rank_score=request.p50_tokens,
        )
        cost = pricing.price(
            snapshot.settings,
            snapshot.stats,
            prediction=said,
            job_class="interactive",
            max_tokens=None,
            answers=1,
            calibrations=snapshot.calibrations,
            wait_ms=pricing.drain_ms(
                snapshot.settings, snapshot.stats, snapshot.stats.backlog_tokens
            )
            or 0.0,
            usual_tokens=snapshot.evidence.usual_tokens,
            rank_accuracy=snapshot.evidence.rank_accuracy,
        )
        job = NewJob(
            id=f"{index:08}",
            endpoint="/v1/completions",
            body=b"{}",
            job_class="interactive",
            slack_ms=cost.slack_ms,
            offset_ms=cost.offset_ms,
            predicted_tokens=cost.tokens,
            predicted_ms=cost.ms,
            prediction=said,
            basis=cost.basis,
            max_attempts=1,
            delay_ms=0,
            ttl_ms=10**9,
            max_depth=10**7,
        )
        if not isinstance(await self._store.submit(self._queue, job), Accepted):
            raise LabError(f"the queue did not take request {index}; is its server ours alone?")
        if self._free:
            self._begin(
                await self._store.claim(self._queue, worker_id="w", count=self._free), now_s
            )

    async def _current_snapshot(self, now_s: float) -> QueueSnapshot:
        """The queue's figures, as old as the service lets them be."""
        if self._snapshot is None or now_s - self._snapshot_s >= MAX_AGE_S:
            self._snapshot, self._snapshot_s = await self._book.read(self._queue), now_s
        return self._snapshot

    def _begin(self, claims: Sequence[Claim], now_s: float) -> None:
        for claim in claims:
            service_s = self._service_ms(claim) / 1000
            heapq.heappush(self._running, (now_s + service_s, next(self._order), claim))
            self._free -= 1

    def _service_ms(self, claim: Claim) -> float:
        return self._requests[int(claim.lease.job_id)].tokens * self._ms_per_token

    async def _end(self, now_s: float) -> None:
        _, _, claim = heapq.heappop(self._running)
        index = int(claim.lease.job_id)
        outcome = Outcome(
            kind=OutcomeKind.OK,
            output_tokens=self._requests[index].tokens,
            service_ms=self._service_ms(claim),
        )
        done = await self._store.finish(
            self._queue, claim.lease, outcome, worker_id="w", claim_next=1
        )
        self._out.completion_s[index] = now_s - self._requests[index].at_s
        self._answered += 1
        self._free += 1
        self._begin(done.next_claims, now_s)

    async def _look(self, now_s: float, accepted: int) -> None:
        await self._watch.check()
        snapshot = self._snapshot = await self._book.read(self._queue)
        self._snapshot_s = now_s
        answers = snapshot.stats.answers
        self._out.looks.append(
            Observation(
                at_s=now_s,
                accepted=accepted,
                answered=self._answered,
                fallback=snapshot.stats.fallback,
                rank_accuracy=quality.rank_accuracy(answers),
                coverage=coverage((a.calibrated, a) for a in answers if a.calibrated is not None),
                raw_coverage=coverage((a.raw, a) for a in answers if a.raw is not None),
                calibration_factor=snapshot.newest_calibration.factor,
            )
        )
