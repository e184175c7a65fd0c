"""The order between tenants, as lua/claim.lua keeps it: start-time fair queueing. Pure.

Called by the store's reads, to show who is next; the scripts are what really decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def merge(
    lines: Mapping[str, Sequence[tuple[T, float]]],
    virtual_times: Mapping[str, float],
    limit: int,
) -> list[T]:
    """The next jobs of all tenants in the order in which they would be claimed now.

    Args:
        lines: Each tenant's waiting jobs, the first due first, with what each is charged:
            predicted tokens / weight.
        virtual_times: Each tenant's, tokens / weight; the smallest is next.
        limit: How many jobs are wanted.

    Source: Goyal, Vin, Cheng, "Start-time Fair Queuing", 1996, section 2; we charge the predicted
    cost at the start and correct it by the actual one at the end, as VTC (arXiv 2401.00588) does.
    """
    times = {tenant: virtual_times.get(tenant, 0.0) for tenant, line in lines.items() if line}
    taken = dict.fromkeys(times, 0)
    order: list[T] = []
    while times and len(order) < limit:
        tenant = min(times, key=lambda name: (times[name], name))
        job, charge = lines[tenant][taken[tenant]]
        order.append(job)
        taken[tenant] += 1
        if taken[tenant] == len(lines[tenant]):
            del times[tenant]
        elif len(times) > 1:  # a tenant that waits alone is not charged
            times[tenant] += charge
    return order
