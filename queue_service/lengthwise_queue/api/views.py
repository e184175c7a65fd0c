"""Makes the response bodies of the contract from the store's values. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lengthwise_contract.jobs import JobList, JobView
from lengthwise_contract.queue_views import (
    QueueLearningView,
    QueueView,
    SnapshotEntry,
    SnapshotView,
    TenantBacklogView,
    TenantQueueView,
)
from lengthwise_queue.admission import retry_after
from lengthwise_queue.prediction import judge, quality
from lengthwise_queue.prediction.accuracy import coverage, tau_b
from lengthwise_queue.scheduling import pricing
from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_queue.tenants.tenant import Tenant
from lengthwise_store.jobs import Accepted, Job, NewJob
from lengthwise_store.queues import JobSnapshot


def job_view(job: Job, response: dict[str, Any] | None) -> JobView:
    """Make the view of a job for its owner."""
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
        request_id=job.request_id or None,
        error=job.error,
        response=response,
    )


def new_job_view(queue: str, job: NewJob, accepted: Accepted) -> JobView:
    """Make the view of a job that has just been accepted."""
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
        request_id=job.request_id or None,
    )


def job_list(jobs: list[Job], after: str | None) -> JobList:
    """Make one page of a listing. It leaves out the answers; `GET /v1/jobs/{id}` has them."""
    return JobList(
        data=[job_view(job, None) for job in jobs], has_more=after is not None, next_after=after
    )


def queue_view(snapshot: QueueSnapshot) -> QueueView:
    """Make the view of a queue for an admin."""
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
        settings_set=sorted(snapshot.queue.set_fields),
        published=dict(snapshot.queue.published),
        mode=stats.mode.value,
        active_policy=stats.active_policy,
        fallback=stats.fallback,
        rank_accuracy=quality.rank_accuracy(recent),
        tau_b=tau_b(expected),
        coverage=coverage((a.calibrated, a) for a in recent if a.calibrated is not None),
        raw_coverage=coverage((a.raw, a) for a in recent if a.raw is not None),
        calibration_samples=calibration.samples,
        calibration_factor=calibration.factor,
        prediction_quality=quality.prediction_quality(stats, settings),
        learning=_learning_view(snapshot) if settings.learning != "off" else None,
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
                tenant=backlog.tenant,
                depth=backlog.depth,
                scheduled=backlog.scheduled,
                dead=backlog.dead,
                virtual_time=backlog.virtual_time,
            )
            for backlog in stats.tenants
        ],
    )


def _learning_view(snapshot: QueueSnapshot) -> QueueLearningView:
    stats = snapshot.stats
    fit, of = stats.fit, judge.scores(quality.recent(stats, snapshot.settings))
    return QueueLearningView(
        serving=snapshot.serving,
        jobs=stats.counters.get("evidence", 0),
        fits=stats.counters.get("fits", 0),
        fitted_jobs=0 if fit is None else fit.samples,
        fit_seconds=None if fit is None else fit.took_ms / 1000,
        fitted_ms=None if fit is None else fit.made_ms,
        tau_static=of.taus["static"],
        tau_learned=of.taus["learned"],
        tau_young=of.taus["young"],
        tau_served=of.tau_served,
        accuracy_static=of.accuracies["static"],
        accuracy_learned=of.accuracies["learned"],
        accuracy_young=of.accuracies["young"],
    )


def tenant_queue_view(
    snapshot: QueueSnapshot, tenant: Tenant, weight_of: Callable[[str], float]
) -> TenantQueueView:
    """Make the view of a queue for a tenant: its own jobs, and how long a new one would wait.

    Of the other tenants it reveals only the wait that they cause.
    """
    settings, stats = snapshot.settings, snapshot.stats
    own = next((one for one in stats.tenants if one.tenant == tenant.name), None)
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


def snapshot_view(snapshot: JobSnapshot) -> SnapshotView:
    """Make the view of the next jobs, those that run, and the last ones that finished."""
    return SnapshotView(
        now_ms=snapshot.now_ms,
        waiting=[_snapshot_entry(job) for job in snapshot.waiting],
        running=[_snapshot_entry(job) for job in snapshot.running],
        finished=[_snapshot_entry(job) for job in snapshot.finished],
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
