"""Predict how long a new job waits, and decide when a refused client should try again. Pure.

Called by `limits` and by the views of a queue, with figures that are at most a second old.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.scheduling import pricing
from lengthwise_store.queues import QueueStats

#: The shortest and the longest `Retry-After`, s. OpenAI's client does not retry at all after more
#: than two minutes.
SOONEST_S, LATEST_S = 1.0, 120.0

#: The `Retry-After` of a queue without workers, where nothing can be predicted, s.
UNKNOWN_S = 30.0


def predicted_wait_ms(
    settings: QueueSettings,
    stats: QueueStats,
    *,
    tenant: str,
    weight_of: Callable[[str], float],
    more_tokens: float = 0.0,
) -> float | None:
    """Predict how long a job that a tenant submits now would wait, if it became its last, ms.

    A tenant with few jobs does not wait for the whole backlog: tenants share the tokens by weight.
    So the wait is the smaller of two: the time of the whole backlog, and the time of the tenant's
    own jobs at its own share.

    Args:
        settings: The queue's.
        stats: The queue's.
        tenant: The tenant that would submit the job.
        weight_of: Returns the weight of a tenant, > 0.
        more_tokens: Predicted tokens that were added to the queue since `stats` were read.

    Returns:
        ms; None: no worker serves the queue.
    """
    whole_ms = pricing.drain_ms(settings, stats, stats.backlog_tokens + more_tokens)
    if whole_ms is None or stats.depth == 0:
        return whole_ms
    busy = {entry.tenant: entry.depth for entry in stats.tenants if entry.depth > 0}
    own = busy.pop(tenant, 0)
    if not busy:
        return whole_ms
    weight = weight_of(tenant)
    share = weight / (weight + sum(map(weight_of, busy)))
    # The tokens of one tenant are not counted separately: its jobs are assumed to have the mean
    # length of the backlog.
    own_ms = whole_ms * (own + 1) / (stats.depth + 1)
    return min(whole_ms, own_ms / share)


def start_every_s(settings: QueueSettings, stats: QueueStats) -> float | None:
    """Compute the time between two starts while jobs wait, s; None: no worker."""
    one_job = stats.backlog_tokens / stats.depth if stats.depth else 0.0
    ms = pricing.drain_ms(settings, stats, one_job or pricing.median_tokens(settings, stats))
    return None if ms is None else ms / 1000


class RetryAfter:
    """Gives refused clients different times to retry, as room for each becomes free.

    With one time for all, all but one client would retry in vain. Each replica keeps its own
    order, so with n replicas a time can be up to n times too early.
    """

    def __init__(self) -> None:
        self._next_s: dict[tuple[str, str], float] = {}  # at most queues x tenants

    def after_s(
        self, queue: str, tenant: str, *, room_in_s: float, step_s: float | None, now_s: float
    ) -> float:
        """Compute when the client that is refused now should retry.

        Args:
            queue: The queue that is full.
            tenant: The tenant whose share of it is full; "": the whole queue.
            room_in_s: When there will be room for one job, s from now.
            step_s: The time until there is room for one more, s; None: no worker.
            now_s: Any monotonic clock, s.

        Returns:
            s from now, `SOONEST_S` to `LATEST_S`.
        """
        if step_s is None or not math.isfinite(room_in_s):
            return UNKNOWN_S
        at_s = max(now_s + room_in_s, self._next_s.get((queue, tenant), 0.0))
        at_s = min(at_s, now_s + LATEST_S)
        self._next_s[queue, tenant] = at_s + step_s
        return clamp_s(at_s - now_s)


def clamp_s(wait_s: float) -> float:
    """Limit a time to what clients respect, s."""
    return min(max(wait_s, SOONEST_S), LATEST_S)
