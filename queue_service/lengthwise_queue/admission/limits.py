"""Why a job is not accepted, and when it is worth another try. Called by `intake`."""

from __future__ import annotations

import time

from lengthwise_queue.admission import retry_after
from lengthwise_queue.errors import KeyConflict, QueueDraining, QueueOverloaded
from lengthwise_queue.scheduling import pricing
from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_queue.service import Service
from lengthwise_queue.tenants.tenant import Tenant
from lengthwise_store.errors import LengthwiseError
from lengthwise_store.jobs import (
    Draining,
    KeyReused,
    NewJob,
    QueueFull,
    RateLimited,
    TenantFull,
)

#: What the store may answer to a submit besides `Accepted`.
Refused = QueueFull | TenantFull | RateLimited | Draining | KeyReused


def refused(
    service: Service,
    tenant: Tenant,
    snapshot: QueueSnapshot,
    job: NewJob,
    answer: Refused,
    too_long_s: float | None,
) -> LengthwiseError:
    """The store's refusal as the error that says what to do.

    Args:
        service: This app's.
        tenant: Whose job it was.
        snapshot: Of its queue.
        job: What was handed in.
        answer: What the store said.
        too_long_s: The predicted wait, s, if that was over the cap; then the store was told to
            take nothing new.
    """
    settings, stats, queue = snapshot.settings, snapshot.stats, snapshot.queue.name
    match answer:
        case QueueFull() if too_long_s is not None:
            return would_wait(service, tenant, snapshot, too_long_s)
        case QueueFull():
            return QueueOverloaded(
                f"The queue of {queue} is full: {answer.depth} jobs are waiting. Try again after "
                "the time in `Retry-After`.",
                retry_after_s=_come_back_s(
                    service, snapshot, "", full_by=answer.depth - settings.max_depth
                ),
            )
        case TenantFull():
            allowed = job.tenant_max_depth or settings.max_depth
            return QueueOverloaded(
                f"Your share of the queue of {queue} is full: {answer.depth} of your jobs are "
                f"waiting, and {allowed} may. Try again after the time in `Retry-After`.",
                code="tenant_queue_full",
                retry_after_s=_come_back_s(
                    service, snapshot, tenant.name, full_by=answer.depth - allowed
                ),
            )
        case RateLimited():
            return QueueOverloaded(
                f"You spent this minute's {answer.what} at {queue}. Try again after the time in "
                "`Retry-After`.",
                code="rate_limit_exceeded",
                retry_after_s=retry_after.clamp_s(answer.retry_after_ms / 1000),
            )
        case Draining():
            backlog_ms = pricing.drain_ms(settings, stats, stats.backlog_tokens)
            return QueueDraining(
                f"The queue of {queue} is draining: it serves what it has and takes no new jobs. "
                "Try again later, or ask its operator.",
                retry_after_s=retry_after.clamp_s(
                    retry_after.UNKNOWN_S if backlog_ms is None else backlog_ms / 1000
                ),
            )
        case KeyReused():
            return KeyConflict(
                f"This `Idempotency-Key` belongs to a different request, job {answer.id}. Use a "
                "new key for a new request.",
                param="Idempotency-Key",
            )


def _come_back_s(service: Service, snapshot: QueueSnapshot, whose: str, *, full_by: int) -> float:
    """When to come back to a line, or to one's share of it, that is full, s from now.

    `full_by` is how many more jobs wait in it than may.
    """
    step_s = retry_after.start_every_s(snapshot.settings, snapshot.stats)
    return service.retry_after.after_s(
        snapshot.queue.name,
        whose,
        room_in_s=(max(full_by, 0) + 1) * (step_s or 0.0),
        step_s=step_s,
        now_s=time.monotonic(),
    )


def would_wait(
    service: Service, tenant: Tenant, snapshot: QueueSnapshot, wait_s: float
) -> QueueOverloaded:
    """A new job would wait for so long, and that is over the queue's cap."""
    limit_s = (snapshot.settings.max_wait_ms or 0) / 1000
    return QueueOverloaded(
        f"A new job of yours would wait about {wait_s:.0f} s at {snapshot.queue.name}, and "
        f"{limit_s:.0f} s is the limit. Try again after the time in `Retry-After`.",
        code="predicted_wait_too_long",
        retry_after_s=service.retry_after.after_s(
            snapshot.queue.name,
            tenant.name,
            room_in_s=wait_s - limit_s,
            step_s=retry_after.start_every_s(snapshot.settings, snapshot.stats),
            now_s=time.monotonic(),
        ),
    )


def too_long_s(service: Service, tenant: Tenant, snapshot: QueueSnapshot) -> float | None:
    """The predicted wait of a new job, s, if it is over the queue's cap."""
    limit_ms = snapshot.settings.max_wait_ms
    if limit_ms is None:
        return None
    wait_ms = predicted_wait_ms(service, tenant, snapshot)
    return wait_ms / 1000 if wait_ms is not None and wait_ms > limit_ms else None


def predicted_wait_ms(service: Service, tenant: Tenant, snapshot: QueueSnapshot) -> float | None:
    """How long a new job of the tenant would wait, ms; None: no worker serves the queue."""
    return retry_after.predicted_wait_ms(
        snapshot.settings,
        snapshot.stats,
        tenant=tenant.name,
        weight_of=service.tenants.weight,
        more_tokens=service.queue_cache.since_read(snapshot.queue.name),
    )
