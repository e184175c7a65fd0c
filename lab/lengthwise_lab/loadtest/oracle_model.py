"""The model of an oracle that knows every length: what the best order would give. Pure.

Called by report.py. The model's queue is ordered by `lengthwise_queue.scheduling.policy` itself, so
that it is the product's rule and not a copy.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from lengthwise_contract.queue_settings import PolicyName
from lengthwise_lab.loadtest.measures import Sample, Summary, summarize
from lengthwise_queue.scheduling.policy import slack_ms

#: k of the oracle: the largest that a queue accepts, which is nearly shortest first.
ORACLE_OVERTAKE_FACTOR = 1000.0


def list_schedule(
    arrivals_s: Sequence[float],
    service_s: Sequence[float],
    lengths_ms: Sequence[float],
    *,
    slots: int,
    policy: PolicyName,
    overtake_factor: float,
) -> list[float]:
    """Compute completion times if `slots` slots served the requests in the policy's order.

    A free slot takes the arrived request with the smallest due time and holds it for its service
    time. Service times do not depend on how many slots are busy, so compare the model with itself
    under `fcfs`.

    Args:
        arrivals_s: Seconds from the start of the run.
        service_s: Seconds that each request holds a slot.
        lengths_ms: Length by which `sjf` orders each, ms.
        slots: Requests served at once, >= 1.
        policy: See the queue settings.
        overtake_factor: k, see the queue settings.

    Returns:
        Completion times in the order of the arguments, seconds after arrival.

    Raises:
        ValueError: `slots` < 1, or the sequences differ in length.
    """
    if slots < 1 or not len(arrivals_s) == len(service_s) == len(lengths_ms):
        raise ValueError(
            f"need slots >= 1 and equal lengths, got {slots} slots and "
            f"{len(arrivals_s)}, {len(service_s)}, {len(lengths_ms)}"
        )
    due_ms = [
        1000 * arrived + slack_ms(length, policy=policy, overtake_factor=overtake_factor)
        for arrived, length in zip(arrivals_s, lengths_ms, strict=True)
    ]
    order = sorted(range(len(arrivals_s)), key=lambda i: (arrivals_s[i], i))
    free_at = [0.0] * slots
    queue: list[tuple[float, int]] = []
    done = [0.0] * len(order)
    upcoming = 0
    for _ in order:
        now = heapq.heappop(free_at)
        if not queue:
            now = max(now, arrivals_s[order[upcoming]])
        while upcoming < len(order) and arrivals_s[order[upcoming]] <= now:
            heapq.heappush(queue, (due_ms[order[upcoming]], order[upcoming]))
            upcoming += 1
        _, i = heapq.heappop(queue)
        heapq.heappush(free_at, now + service_s[i])
        done[i] = now + service_s[i] - arrivals_s[i]
    return done


def oracle(samples: Sequence[Sample], *, slots: int) -> tuple[Summary, Summary] | None:
    """Compute completion times for an oracle that knows every length, and for FCFS.

    Both come from `list_schedule` with the measured service times and the measured lengths.

    Returns:
        (shortest first, first come first served); None if no sample has length and service time.
    """
    known = [s for s in samples if s.ok and s.service_s is not None and s.output_tokens is not None]
    if not known:
        return None
    arrivals = [s.due_to_send_s for s in known]
    service = [s.service_s or 0.0 for s in known]
    lengths = [float(s.output_tokens or 0) for s in known]

    def under(policy: PolicyName) -> Summary:
        return summarize(
            list_schedule(
                arrivals,
                service,
                lengths,
                slots=slots,
                policy=policy,
                overtake_factor=ORACLE_OVERTAKE_FACTOR,
            )
        )

    return under("sjf"), under("fcfs")
