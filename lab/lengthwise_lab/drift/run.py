"""Run one stream through the real queue: the store on a real Valkey, the pricing, the fallback.

Only the time is simulated: the store's clock is set from event to event, so that an hour of traffic
takes seconds and the load of the machine changes nothing. Called by `lengthwise bench drift`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.queue_views import WorkerView
from lengthwise_lab.drift.learning import StreamLearner
from lengthwise_lab.drift.streams import StreamRequest
from lengthwise_lab.errors import LabError
from lengthwise_queue.background import fallback_controller
from lengthwise_queue.learning.forecaster import NOTHING
from lengthwise_queue.prediction import quality
from lengthwise_queue.prediction.accuracy import coverage
from lengthwise_queue.scheduling import pricing
from lengthwise_queue.scheduling.snapshot import MAX_AGE_S, QueueCache, QueueSnapshot
from lengthwise_store.jobs import Accepted, Claim, NewJob, Outcome, OutcomeKind
from lengthwise_store.prediction_record import Served
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore

#: The start of the simulated clock, ms since the epoch. Any time would do.
_EPOCH_MS = 1_700_000_000_000.0

#: Nothing may expire on the simulated clock. The data is deleted with the server.
_TIMES = StoreSettings(lease_ms=10**9, worker_ttl_ms=10**9)


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The measured quality of the predictor after a check of the fallback, and its decision."""

    at_s: float
    accepted: int
    answered: int
    fallback: bool
    serving: Served  #: Whose predictions were served.
    rank_accuracy: float | None
    coverage: float | None
    raw_coverage: float | None
    calibration_factor: float

    def suits(self, *, good: bool) -> bool:
        """Whether the queue served a predictor of this quality rightly.

        A bad one is rightly not followed: the queue serves fcfs, or what it learned in its place.
        """
        return not self.fallback if good else self.fallback or self.serving != "static"


@dataclass(kw_only=True)
class Outcomes:
    """The outcomes of a stream under one variant."""

    completion_s: list[float]  #: Seconds from arrival to end, by request.
    observations: list[Observation] = field(default_factory=list)


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
        redis_url: A server of its own; `queue` must not exist on it.
        requests: By time of arrival.
        settings: Of the queue: its policy, and whether it may fall back to fcfs.
        queue: Its name.
        slots: Answers at once.
        ms_per_token: Time of one token, ms; it does not depend on the other answers.
    """
    store = JobStore(redis_url, _TIMES, now_ms=_EPOCH_MS)
    try:
        await store.put_queue(queue, settings)
        view = WorkerView(id="w", slots=slots, running=0, engine="drift", seen_ms=0)
        await store.beat(queue, worker=view, leases=[])
        run = _StreamRun(
            store, requests, settings, queue=queue, slots=slots, ms_per_token=ms_per_token
        )
        return await run.run()
    finally:
        await store.aclose()


class _StreamRun:
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
        self._has_fallback = settings.policy == "sjf" and settings.min_rank_accuracy is not None
        self._store, self._requests, self._queue = store, requests, queue
        self._cache = QueueCache(store)
        self._fallback = fallback_controller.FallbackController(store, self._cache)
        self._learner = StreamLearner(store, self._cache, queue)
        self._free, self._ms_per_token = slots, ms_per_token
        self._running: list[tuple[float, int, Claim]] = []
        self._order = itertools.count()
        self._answered = 0
        self._snapshot: QueueSnapshot | None = None
        self._snapshot_s = 0.0
        self._out = Outcomes(completion_s=[0.0] * len(requests))

    async def run(self) -> Outcomes:
        """Process all events, from the first arrival to the last end."""
        check_s, next_index = fallback_controller.EVERY_S if self._has_fallback else float("inf"), 0
        while next_index < len(self._requests) or self._running:
            arrival_s = (
                self._requests[next_index].at_s
                if next_index < len(self._requests)
                else float("inf")
            )
            end_s = self._running[0][0] if self._running else float("inf")
            now_s = min(arrival_s, end_s, check_s)
            self._store.now_ms = _EPOCH_MS + 1000 * now_s
            if now_s == check_s:
                await self._check(check_s, next_index)
                check_s += fallback_controller.EVERY_S
            elif now_s == end_s:
                await self._end(now_s)
            else:
                await self._submit(next_index, now_s)
                next_index += 1
        return self._out

    async def _submit(self, index: int, now_s: float) -> None:
        request = self._requests[index]
        snapshot = await self._current_snapshot(now_s)
        prediction = Prediction(
            model_version="drift",
            p10_tokens=request.p10_tokens,
            p50_tokens=request.p50_tokens,
            p90_tokens=request.p90_tokens,
            mean_tokens=request.p50_tokens,
            rank_score=request.p50_tokens,
        )
        forecasted = NOTHING
        if snapshot.settings.learning != "off":
            forecasted = self._learner.forecast(snapshot, request)
        cost = pricing.price(
            snapshot.settings,
            snapshot.stats,
            prediction=prediction,
            learning=forecasted.learning,
            job_class="interactive",
            max_tokens=None,
            answers=1,
            calibrations=snapshot.calibrations,
            wait_ms=pricing.drain_ms(
                snapshot.settings, snapshot.stats, snapshot.stats.backlog_tokens
            )
            or 0.0,
            usual_tokens=snapshot.answer_statistics.usual_tokens,
            rank_accuracy=snapshot.answer_statistics.rank_accuracy,
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
            prediction=prediction,
            basis=cost.basis,
            submission=forecasted.submission,
            max_attempts=1,
            delay_ms=0,
            ttl_ms=10**9,
            max_depth=10**7,
        )
        if not isinstance(await self._store.submit(self._queue, job), Accepted):
            raise LabError(
                f"the queue refused request {index}; does another program use its server?"
            )
        if self._free:
            self._start(
                await self._store.claim(self._queue, worker_id="w", count=self._free), now_s
            )

    async def _current_snapshot(self, now_s: float) -> QueueSnapshot:
        """Return the snapshot of the queue, at most as old as in the service."""
        if self._snapshot is None or now_s - self._snapshot_s >= MAX_AGE_S:
            self._snapshot, self._snapshot_s = await self._cache.read(self._queue), now_s
        return self._snapshot

    def _start(self, claims: Sequence[Claim], now_s: float) -> None:
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
        self._start(done.next_claims, now_s)

    async def _check(self, now_s: float, accepted: int) -> None:
        await self._learner.check()
        await self._fallback.check()
        snapshot = self._snapshot = await self._cache.read(self._queue)
        self._snapshot_s = now_s
        answers = snapshot.stats.answers
        self._out.observations.append(
            Observation(
                at_s=now_s,
                accepted=accepted,
                answered=self._answered,
                fallback=snapshot.stats.fallback,
                serving=snapshot.serving,
                rank_accuracy=quality.rank_accuracy(answers),
                coverage=coverage((a.calibrated, a) for a in answers if a.calibrated is not None),
                raw_coverage=coverage((a.raw, a) for a in answers if a.raw is not None),
                calibration_factor=snapshot.newest_calibration.factor,
            )
        )
