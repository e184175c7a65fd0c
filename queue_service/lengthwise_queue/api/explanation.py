"""Explains why a job is where it is in its queue. Called by `GET /v1/jobs/{id}/explain`. Pure."""

from __future__ import annotations

from typing import cast

from lengthwise_contract.explanation import Explanation, LengthQuantiles
from lengthwise_contract.queue_settings import PolicyName
from lengthwise_contract.states import JobState
from lengthwise_queue.prediction import quality
from lengthwise_queue.scheduling import pricing
from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_store.jobs import Job
from lengthwise_store.prediction_record import Quantiles, predictor_tag
from lengthwise_store.queues import Mode, Position


def explanation(job: Job, snapshot: QueueSnapshot, position: Position | None) -> Explanation:
    """Why a job stands where it stands."""
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


def _quantiles(said: Quantiles | None) -> LengthQuantiles | None:
    if said is None:
        return None
    p10, p50, p90 = said
    return LengthQuantiles(p10_tokens=p10, p50_tokens=p50, p90_tokens=p90)


def _why(
    job: Job, snapshot: QueueSnapshot, position: Position | None, ahead_ms: float | None
) -> str:
    if job.state is JobState.RUNNING:
        return f"A worker is answering it now, attempt {job.attempt}.{_compared(job)}"
    if job.state is JobState.SCHEDULED:
        return "It is not in the line yet: it waits for its delay, or for its retry, to be over."
    if job.state is not JobState.QUEUED or position is None:
        return f"It is not waiting: it is {job.state}.{_compared(job)}"
    if position.ahead == 0:
        place = "It is its tenant's next."
    else:
        are = "is" if position.ahead == 1 else "are"
        place = (
            f"{position.ahead} of its tenant's jobs {are} ahead; about "
            f"{position.tokens_ahead:.0f} predicted tokens are served before it."
        )
    if _others_wait(job, snapshot):
        place += (
            " Other tenants wait too: between tenants the output tokens are shared by weight, "
            f"and this tenant's is {job.weight:g}."
        )
    if snapshot.stats.mode is Mode.PAUSED:
        start = "The queue is paused, so nothing starts until it is resumed."
    elif ahead_ms is None:
        start = "No worker serves this queue, so nothing moves: start one."
    else:
        start = f"It should start in about {ahead_ms / 1000:.1f} s."
    return f"{place} {start} {_rule(job, snapshot)}"


def _others_wait(job: Job, snapshot: QueueSnapshot) -> bool:
    return any(line.depth > 0 and line.tenant != job.tenant for line in snapshot.stats.tenants)


def _compared(job: Job) -> str:
    """What first come, first served would have made of its wait."""
    if job.fcfs_wait_ms is None or job.started_ms is None:
        return ""
    waited_s = max(job.started_ms - job.since_ms, 0.0) / 1000
    return (
        f" It waited {waited_s:.1f} s; first come, first served it would have been "
        f"{job.fcfs_wait_ms / 1000:.1f} s."
    )


def _rule(job: Job, snapshot: QueueSnapshot) -> str:
    """Why it falls due when it does, by the order that is in force now."""
    source = "predicted" if job.prediction is not None else "assumed, for want of a prediction"
    if job.prediction is not None and job.basis.calibrated is not None:
        source = (
            f"predicted (the predictor's median is {job.prediction.p50_tokens:.0f}, corrected by "
            f"what answers were to {job.basis.calibrated[1]:.0f})"
        )
    length = f"{job.predicted_tokens:.0f} output tokens were {source}"
    length = length[0].upper() + length[1:]
    if snapshot.stats.fallback and snapshot.settings.policy == "sjf":
        return (
            f"{length}, but they do not count now: the predictions were found useless, so the "
            "queue serves in order of acceptance until they are better."
        )
    if snapshot.stats.active_policy != "sjf":
        return (
            f"{length}; the queue serves in order of acceptance ({snapshot.stats.active_policy})."
        )
    due_s = (job.due_ms - job.since_ms) / 1000
    return (
        f"{length}, so it falls due {due_s:.1f} s after it came, and whatever falls due earlier "
        f"goes first: of its class, nothing that comes more than {_bound_ms(job) / 1000:.1f} s "
        "after it."
    )


def _bound_ms(job: Job) -> float:
    """How much later a job of its class may come and still overtake it under `sjf`, ms."""
    return max(job.slack_ms - job.offset_ms, 0.0)
