"""What the store says, as the bodies of the contract. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from lengthwise_contract.explanation import Explanation, LengthQuantiles
from lengthwise_contract.jobs import JobList, JobView
from lengthwise_contract.queue_settings import PolicyName
from lengthwise_contract.queue_views import (
    QueueView,
    SnapshotEntry,
    SnapshotView,
    TenantBacklogView,
    TenantQueueView,
)
from lengthwise_contract.states import JobState
from lengthwise_queue.admission import retry_after
from lengthwise_queue.prediction import quality
from lengthwise_queue.prediction.accuracy import coverage, tau_b
from lengthwise_queue.scheduling import pricing
from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_queue.tenants.tenant import Tenant
from lengthwise_store.jobs import (
    Accepted,
    Job,
    Line,
    Mode,
    NewJob,
    Position,
    Quantiles,
    predictor_tag,
)


def job_view(job: Job, response: dict[str, Any] | None) -> JobView:
    """A job as its owner sees it."""
    return JobView(
        id=job.id,
        queue=job.queue,
        tenant=job.tenant,
        endpoint=job.endpoint,
        job_class=job.job_class,
        state=job.state,
        attempt=job.attempt,
        accepted_ms=job.accepted_ms,
        started_ms=job.started_ms,
        first_output_ms=job.first_output_ms,
        finished_ms=job.finished_ms,
        due_ms=job.due_ms,
        predicted_tokens=job.predicted_tokens,
        prompt_tokens=job.prompt_tokens,
        output_tokens=job.output_tokens,
        cancel_requested=job.cancel_requested,
        fcfs_wait_ms=job.fcfs_wait_ms,
        error=job.error,
        response=response,
    )


def new_job_view(queue: str, job: NewJob, accepted: Accepted) -> JobView:
    """A job that was accepted just now."""
    return JobView(
        id=accepted.id,
        queue=queue,
        tenant=job.tenant,
        endpoint=job.endpoint,
        job_class=job.job_class,
        state=accepted.state,
        attempt=0,
        accepted_ms=accepted.accepted_ms,
        due_ms=accepted.due_ms,
        predicted_tokens=job.predicted_tokens,
    )


def job_list(jobs: list[Job], after: str | None) -> JobList:
    """A part of a listing; what the jobs answered is left to `GET /v1/jobs/{id}`."""
    return JobList(
        data=[job_view(job, None) for job in jobs], has_more=after is not None, next_after=after
    )


def queue_view(snapshot: QueueSnapshot) -> QueueView:
    """The line as it stands, for an admin."""
    settings, stats = snapshot.settings, snapshot.stats
    backlog_ms = pricing.drain_ms(settings, stats, stats.backlog_tokens)
    oldest_ms = stats.oldest_accepted_ms
    counted = stats.counters
    recent = quality.recent(stats, settings)
    expected = quality.expectations(recent)
    calibration = snapshot.newest_calibration
    return QueueView(
        name=snapshot.queue.name,
        settings=settings,
        mode=stats.mode.value,
        active_policy=stats.active_policy,
        fallback=stats.fallback,
        rank_accuracy=quality.rank_accuracy(recent),
        tau_b=tau_b(expected),
        coverage=coverage((a.said, a) for a in recent if a.said is not None),
        raw_coverage=coverage((a.raw, a) for a in recent if a.raw is not None),
        calibration_samples=calibration.samples,
        calibration_factor=calibration.factor,
        prediction_quality=quality.prediction_quality(stats, settings),
        mean_wait_seconds=_seconds(stats.mean_wait_ms),
        mean_fcfs_wait_seconds=_seconds(stats.mean_fcfs_wait_ms),
        depth=stats.depth,
        scheduled=stats.scheduled,
        in_flight=stats.in_flight,
        dead=stats.dead,
        backlog_tokens=stats.backlog_tokens,
        backlog_seconds=_seconds(backlog_ms),
        oldest_wait_seconds=0 if oldest_ms is None else max(stats.now_ms - oldest_ms, 0) / 1000,
        ms_per_token=pricing.ms_per_token(settings, stats),
        median_tokens=pricing.median_tokens(settings, stats),
        accepted=counted.get("accepted", 0),
        succeeded=counted.get("succeeded", 0),
        failed=counted.get("failed", 0),
        cancelled=counted.get("cancelled", 0),
        expired=counted.get("expired", 0),
        fallbacks=counted.get("fallbacks", 0),
        workers=stats.workers,
        tenants=[
            TenantBacklogView(
                tenant=line.tenant,
                depth=line.depth,
                scheduled=line.scheduled,
                dead=line.dead,
                virtual_time=line.virtual_time,
            )
            for line in stats.tenants
        ],
    )


def tenant_queue_view(
    snapshot: QueueSnapshot, tenant: Tenant, weight_of: Callable[[str], float]
) -> TenantQueueView:
    """The line for one tenant: its own jobs, and nothing of the others' but how long it waits."""
    settings, stats = snapshot.settings, snapshot.stats
    own = next((line for line in stats.tenants if line.tenant == tenant.name), None)
    wait_ms = retry_after.predicted_wait_ms(
        settings, stats, tenant=tenant.name, weight_of=weight_of
    )
    return TenantQueueView(
        name=snapshot.queue.name,
        mode=stats.mode.value,
        active_policy=stats.active_policy,
        depth=0 if own is None else own.depth,
        scheduled=0 if own is None else own.scheduled,
        dead=0 if own is None else own.dead,
        max_depth=tenant.max_depth(settings.max_depth) or settings.max_depth,
        predicted_wait_seconds=_seconds(wait_ms),
        classes=settings.classes,
        max_model_len=settings.max_model_len,
    )


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000


def snapshot_view(line: Line) -> SnapshotView:
    """The next jobs, those running, and the last finished."""
    return SnapshotView(
        now_ms=line.now_ms,
        waiting=[_snapshot_entry(job) for job in line.waiting],
        running=[_snapshot_entry(job) for job in line.running],
        finished=[_snapshot_entry(job) for job in line.finished],
    )


def _snapshot_entry(job: Job) -> SnapshotEntry:
    return SnapshotEntry(
        id=job.id,
        tenant=job.tenant,
        state=job.state,
        job_class=job.job_class,
        predicted_tokens=job.predicted_tokens,
        output_tokens=job.output_tokens,
        accepted_ms=job.accepted_ms,
        due_ms=job.due_ms,
        started_ms=job.started_ms,
        finished_ms=job.finished_ms,
    )


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


def listing(data: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    """OpenAI's page of a list."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }
