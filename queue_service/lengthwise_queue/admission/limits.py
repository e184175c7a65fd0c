"""Refuse jobs that would wait too long, or that the store does not accept.

Called by `submit`. The message of a refusal has what the client can do, and when to retry.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from lengthwise_queue.admission import retry_after
from lengthwise_queue.admission.retry_after import RetryAfter
from lengthwise_queue.errors import KeyConflict, NoWorkers, QueueDraining, QueueOverloaded
from lengthwise_queue.scheduling import pricing
from lengthwise_queue.scheduling.snapshot import QueueCache, QueueSnapshot
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

#: What the store returns for a job that it does not accept.
NotAccepted = QueueFull | TenantFull | RateLimited | Draining | KeyReused


class Limits:
    """The limits of all queues.

    Args:
        queue_cache: Counts the jobs that this replica added since the last snapshot.
        weight_of: Returns the weight of a tenant, > 0.
    """

    def __init__(self, queue_cache: QueueCache, weight_of: Callable[[str], float]) -> None:
        self._queue_cache = queue_cache
        self._weight_of = weight_of
        self._retry_after = RetryAfter()

    def wait_ms(self, tenant: Tenant, snapshot: QueueSnapshot) -> float | None:
        """Predict how long a new job of the tenant would wait, ms; None: no worker."""
        return retry_after.predicted_wait_ms(
            snapshot.settings,
            snapshot.stats,
            tenant=tenant.name,
            weight_of=self._weight_of,
            more_tokens=self._queue_cache.since_read(snapshot.queue.name),
        )

    def too_long_s(self, tenant: Tenant, snapshot: QueueSnapshot) -> float | None:
        """Return the predicted wait of a new job, s, if it is over the queue's limit."""
        limit_ms = snapshot.settings.max_wait_ms
        if limit_ms is None:
            return None
        wait_ms = self.wait_ms(tenant, snapshot)
        return wait_ms / 1000 if wait_ms is not None and wait_ms > limit_ms else None

    def no_workers(self, snapshot: QueueSnapshot) -> bool:
        """Return whether the queue refuses new jobs, because no worker serves it."""
        return snapshot.settings.no_workers == "refuse" and not snapshot.stats.live_workers

    def unserved(self, snapshot: QueueSnapshot) -> NoWorkers:
        """Make the error for a job of a queue that refuses while no worker serves it."""
        return NoWorkers(
            f"No worker serves {snapshot.queue.name} now, and its queue is set to refuse requests "
            "then (`no_workers`). Try again after the time in `Retry-After`, or ask its operator.",
            retry_after_s=retry_after.UNKNOWN_S,
        )

    def wait_too_long(
        self, tenant: Tenant, snapshot: QueueSnapshot, wait_s: float
    ) -> QueueOverloaded:
        """Make the error for a job whose predicted wait, s, is over the queue's limit."""
        limit_s = (snapshot.settings.max_wait_ms or 0) / 1000
        return QueueOverloaded(
            f"A new job of yours would wait about {wait_s:.0f} s at {snapshot.queue.name}, and "
            f"{limit_s:.0f} s is the limit. Try again after the time in `Retry-After`.",
            code="predicted_wait_too_long",
            retry_after_s=self._retry_after.after_s(
                snapshot.queue.name,
                tenant.name,
                room_in_s=wait_s - limit_s,
                step_s=retry_after.start_every_s(snapshot.settings, snapshot.stats),
                now_s=time.monotonic(),
            ),
        )

    def refused(
        self,
        tenant: Tenant,
        snapshot: QueueSnapshot,
        job: NewJob,
        result: NotAccepted,
        too_long_s: float | None,
    ) -> LengthwiseError:
        """Make the error for a job that the store did not accept.

        Args:
            tenant: The tenant that submitted the job.
            snapshot: Of the job's queue.
            job: What was submitted.
            result: What the store returned.
            too_long_s: The predicted wait, s, if it was over the limit; then the store was asked
                to accept no new job.
        """
        settings, stats, queue = snapshot.settings, snapshot.stats, snapshot.queue.name
        match result:
            case QueueFull() if too_long_s is not None:
                return self.wait_too_long(tenant, snapshot, too_long_s)
            case QueueFull():
                return QueueOverloaded(
                    f"The queue of {queue} is full: {result.depth} jobs are waiting. Try again "
                    "after the time in `Retry-After`.",
                    retry_after_s=self._room_in_s(
                        snapshot, "", excess=result.depth - settings.max_depth
                    ),
                )
            case TenantFull():
                allowed = job.tenant_max_depth or settings.max_depth
                return QueueOverloaded(
                    f"Your share of the queue of {queue} is full: {result.depth} of your jobs are "
                    f"waiting, and {allowed} may. Try again after the time in `Retry-After`.",
                    code="tenant_queue_full",
                    retry_after_s=self._room_in_s(
                        snapshot, tenant.name, excess=result.depth - allowed
                    ),
                )
            case RateLimited():
                return QueueOverloaded(
                    f"You spent this minute's {result.what} at {queue}. Try again after the time "
                    "in `Retry-After`.",
                    code="rate_limit_exceeded",
                    retry_after_s=retry_after.clamp_s(result.retry_after_ms / 1000),
                )
            case Draining():
                backlog_ms = pricing.drain_ms(settings, stats, stats.backlog_tokens)
                return QueueDraining(
                    f"The queue of {queue} is draining: it serves the jobs that it has and "
                    "accepts no new ones. Try again later, or ask its operator.",
                    retry_after_s=retry_after.clamp_s(
                        retry_after.UNKNOWN_S if backlog_ms is None else backlog_ms / 1000
                    ),
                )
            case KeyReused():
                return KeyConflict(
                    f"This `Idempotency-Key` belongs to a different request, job {result.id}. Use "
                    "a new key for a new request.",
                    param="Idempotency-Key",
                )

    def _room_in_s(self, snapshot: QueueSnapshot, tenant: str, *, excess: int) -> float:
        """Compute when to retry at a full queue, or at a tenant's full share of it, s from now.

        Args:
            snapshot: Of the queue.
            tenant: The tenant whose share is full; "": the whole queue.
            excess: How many more jobs wait in it than may.
        """
        step_s = retry_after.start_every_s(snapshot.settings, snapshot.stats)
        return self._retry_after.after_s(
            snapshot.queue.name,
            tenant,
            room_in_s=(max(excess, 0) + 1) * (step_s or 0.0),
            step_s=step_s,
            now_s=time.monotonic(),
        )
