"""How long a new job would wait, and when a refused one should come back. Pure.

Called by `intake`, with figures of a queue that are at most a second old.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.scheduling import pricing
from lengthwise_store.jobs import QueueStats

#: Shortest and longest time that a client is told to stay away, s. OpenAI's client does not come
#: back at all when it is told more than two minutes.
SOONEST_S, LATEST_S = 1.0, 120.0

#: What is said where nothing can be known, because no worker serves the queue, s.
UNKNOWN_S = 30.0


def predicted_wait_ms(
    settings: QueueSettings,
    stats: QueueStats,
    *,
    tenant: str,
    weight_of: Callable[[str], float],
    more_tokens: float = 0.0,
) -> float | None:
    """How long the last of a tenant's jobs waits, were it sent now.

    A tenant with few jobs does not wait for the whole line: between tenants the tokens are shared
    by weight. So it is the whole line's time, or its own jobs' at its own share, whichever is less.

    Args:
        settings: The queue's.
        stats: The queue's.
        tenant: Whose job it would be.
        weight_of: Each tenant's weight, > 0.
        more_tokens: Predicted tokens that came into the line since `stats` were read.

    Returns:
        ms; None: no worker serves the queue.
    """
    whole_ms = pricing.drain_ms(settings, stats, stats.backlog_tokens + more_tokens)
    if whole_ms is None or stats.depth == 0:
        return whole_ms
    busy = {line.tenant: line.depth for line in stats.tenants if line.depth > 0}
    own = busy.pop(tenant, 0)
    if not busy:
        return whole_ms
    weight = weight_of(tenant)
    share = weight / (weight + sum(map(weight_of, busy)))
    # The tokens of one tenant are not counted apart; its jobs are taken to be of the usual length.
    own_ms = whole_ms * (own + 1) / (stats.depth + 1)
    return min(whole_ms, own_ms / share)


def start_every_s(settings: QueueSettings, stats: QueueStats) -> float | None:
    """The time between two starts, while the line lasts, s; None: no worker serves the queue."""
    one_job = stats.backlog_tokens / stats.depth if stats.depth else 0.0
    ms = pricing.drain_ms(settings, stats, one_job or pricing.median_tokens(settings, stats))
    return None if ms is None else ms / 1000


class RetryAfter:
    """Tells the refused when to come back: one after the other, as there will be room for them.

    To tell them all when there is room for one would make all but one come in vain. Each replica
    keeps its own order, so with n of them a time can be up to n times too soon.
    """

    def __init__(self) -> None:
        self._next_s: dict[tuple[str, str], float] = {}  # at most queues x tenants

    def after_s(
        self, queue: str, tenant: str, *, room_in_s: float, step_s: float | None, now_s: float
    ) -> float:
        """When the one who is refused now should come back.

        Args:
            queue: Which is full.
            tenant: Whose share of it; "": all of it.
            room_in_s: When there will be room for one, s from now.
            step_s: How long until there is room for one more, s; None: nothing moves.
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
    """A time to stay away, within what clients obey, s."""
    return min(max(wait_s, SOONEST_S), LATEST_S)
