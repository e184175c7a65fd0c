"""Explains why a job is where it is in its queue. Called by `GET /v1/jobs/{id}/explain`. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from lengthwise_contract.explanation import (
    Explanation,
    LearningExplanation,
    LengthQuantiles,
    SimilarJobView,
)
from lengthwise_contract.queue_settings import PolicyName
from lengthwise_contract.states import JobState
from lengthwise_learning.similar import SimilarJob
from lengthwise_queue.prediction import judge, quality
from lengthwise_queue.scheduling import pricing
from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_store.jobs import Job
from lengthwise_store.prediction_record import Quantiles, predictor_tag
from lengthwise_store.queues import Mode, Position


def explanation(
    job: Job,
    snapshot: QueueSnapshot,
    position: Position | None,
    similar: Sequence[SimilarJob] = (),
) -> Explanation:
    """Explain a job's place in its queue.

    Args:
        job: The job.
        snapshot: The queue, as it is now.
        position: The job's place, if it waits.
        similar: Finished jobs like it, of its own tenant.
    """
    settings, stats = snapshot.settings, snapshot.stats
    ahead_ms = None
    if position is not None:
        ahead_ms = pricing.drain_ms(settings, stats, position.tokens_ahead)
        slots = sum(worker.slots for worker in stats.workers)
        if position.ahead < slots - stats.in_flight:
            ahead_ms = 0.0  # there is a free slot for it now
    if stats.mode is Mode.PAUSED:
        ahead_ms = None
    priced_at = job.predicted_ms / job.predicted_tokens if job.predicted_tokens else 0.0
    return Explanation(
        id=job.id,
        queue=job.queue,
        state=job.state,
        tenant=job.tenant,
        policy=cast(PolicyName, job.policy),
        active_policy=stats.active_policy,
        fallback=stats.fallback,
        mode=stats.mode.value,
        prediction=job.prediction,
        calibrated=_quantiles(job.basis.calibrated),
        calibration_samples=0
        if job.prediction is None
        else snapshot.calibrations.of(predictor_tag(job.prediction.model_version)).samples,
        rank_accuracy=quality.rank_accuracy(quality.recent(stats, settings)),
        prediction_quality=quality.prediction_quality(stats, settings),
        learning=_learning(job, snapshot, similar),
        predicted_tokens=job.predicted_tokens,
        ms_per_token=priced_at,
        predicted_ms=job.predicted_ms,
        overtake_factor=settings.overtake_factor,
        overtake_bound_ms=_bound_ms(job),
        class_offset_ms=job.offset_ms,
        accepted_ms=job.accepted_ms,
        due_ms=job.due_ms,
        position=None if position is None else position.ahead,
        tokens_ahead=None if position is None else position.tokens_ahead,
        estimated_start_ms=None if ahead_ms is None else stats.now_ms + ahead_ms,
        fcfs_wait_ms=job.fcfs_wait_ms,
        why=_why(job, snapshot, position, ahead_ms),
    )


def _learning(
    job: Job, snapshot: QueueSnapshot, similar: Sequence[SimilarJob]
) -> LearningExplanation | None:
    made = job.basis.learning
    if made is None or job.prediction is None:
        return None
    of = judge.scores(quality.recent(snapshot.stats, snapshot.settings))
    return LearningExplanation(
        static_tokens=job.prediction.p50_tokens,
        learned_tokens=None if made.learned is None else math.exp(made.learned),
        young_tokens=None if made.young is None else math.exp(made.young),
        served=made.served,
        serving=snapshot.serving,
        tau_static=of.taus["static"],
        tau_learned=of.taus["learned"],
        tau_served=of.tau_served,
        similar=[
            SimilarJobView(similarity=one.similarity, output_tokens=one.tokens, cut=one.censored)
            for one in similar
        ],
    )


def _quantiles(calibrated: Quantiles | None) -> LengthQuantiles | None:
    if calibrated is None:
        return None
    p10, p50, p90 = calibrated
    return LengthQuantiles(p10_tokens=p10, p50_tokens=p50, p90_tokens=p90)


def _why(
    job: Job, snapshot: QueueSnapshot, position: Position | None, ahead_ms: float | None
) -> str:
    if job.state is JobState.RUNNING:
        return f"A worker is answering it now, attempt {job.attempt}.{_compared(job)}"
    if job.state is JobState.SCHEDULED:
        return "It is not in the queue yet: it waits for the end of its delay, or for its retry."
    if job.state is not JobState.QUEUED or position is None:
        return f"It is not waiting: it is {job.state}.{_compared(job)}"
    if position.ahead == 0:
        place = "It is the next of its tenant's jobs."
    else:
        are = "is" if position.ahead == 1 else "are"
        place = (
            f"{position.ahead} of its tenant's jobs {are} ahead; about "
            f"{position.tokens_ahead:.0f} predicted tokens are served before it."
        )
    if _others_wait(job, snapshot):
        place += (
            " Jobs of other tenants wait too. Tenants share the output tokens by weight, and the "
            f"weight of this tenant is {job.weight:g}."
        )
    if snapshot.stats.mode is Mode.PAUSED:
        start = "The queue is paused, so no job starts until it is resumed."
    elif ahead_ms is None:
        start = "No worker serves this queue, so no job starts: start a worker."
    else:
        start = f"It should start in about {ahead_ms / 1000:.1f} s."
    return f"{place} {start} {_rule(job, snapshot)}"


def _others_wait(job: Job, snapshot: QueueSnapshot) -> bool:
    return any(one.depth > 0 and one.tenant != job.tenant for one in snapshot.stats.tenants)


def _compared(job: Job) -> str:
    """Compare the job's wait with its wait under first come, first served."""
    if job.fcfs_wait_ms is None or job.started_ms is None:
        return ""
    waited_s = max(job.started_ms - job.since_ms, 0.0) / 1000
    return (
        f" It waited {waited_s:.1f} s; with first come, first served it would have waited "
        f"{job.fcfs_wait_ms / 1000:.1f} s."
    )


def _rule(job: Job, snapshot: QueueSnapshot) -> str:
    """Explain the job's due time, by the order of service that is in force now."""
    source = (
        "predicted"
        if job.prediction is not None
        else "assumed, because there is no prediction, or the request itself fixes its length"
    )
    learning = job.basis.learning
    learned = None if learning is None else learning.of(learning.served)
    if job.prediction is not None and (job.basis.calibrated or learned is not None):
        parts = [f"the predictor's median is {job.prediction.p50_tokens:.0f}"]
        if learned is not None:
            parts.append(f"finished jobs of the queue make it {math.exp(learned):.0f}")
        if job.basis.calibrated is not None:
            made = f"calibration by recent answers makes it {job.basis.calibrated[1]:.0f}"
            parts.append(made)
        source = f"predicted ({'; '.join(parts)})"
    length = f"{job.predicted_tokens:.0f} output tokens were {source}"
    length = length[0].upper() + length[1:]
    if snapshot.stats.fallback and snapshot.settings.policy == "sjf":
        return (
            f"{length}, but predictions do not count now: their quality is degraded, so the "
            "queue serves in order of acceptance until it is healthy again."
        )
    if snapshot.stats.active_policy != "sjf":
        return (
            f"{length}; the queue serves in order of acceptance ({snapshot.stats.active_policy})."
        )
    due_s = (job.due_ms - job.since_ms) / 1000
    return (
        f"{length}, so the job is due {due_s:.1f} s after it came. Jobs that are due earlier are "
        f"served first. No job of its class that comes more than {_bound_ms(job) / 1000:.1f} s "
        "after it is among them."
    )


def _bound_ms(job: Job) -> float:
    """Return how much later a job of its class can come and still overtake it with `sjf`, ms."""
    return max(job.slack_ms - job.offset_ms, 0.0)
