"""Merges the backlogs of tenants in the order of lua/claim.lua: start-time fair queueing. Pure.

Called by reads.py, to show which job is next. The scripts alone decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def merge(
    backlogs: Mapping[str, Sequence[tuple[T, float]]],
    virtual_times: Mapping[str, float],
    limit: int,
) -> list[T]:
    """Return the next jobs of all tenants, in the order in which they would be claimed now.

    Args:
        backlogs: Each tenant's waiting jobs, the first due first, with what each is charged:
            predicted tokens / weight.
        virtual_times: Each tenant's virtual time, tokens / weight; the smallest is next.
        limit: How many jobs are wanted.

    Source: Goyal, Vin, Cheng, "Start-time Fair Queuing", 1996, section 2; we charge the predicted
    cost at the start and correct it by the actual one at the end, as VTC (arXiv 2401.00588) does.
    """
    times = {tenant: virtual_times.get(tenant, 0.0) for tenant, jobs in backlogs.items() if jobs}
    taken = dict.fromkeys(times, 0)
    order: list[T] = []
    while times and len(order) < limit:
        tenant = min(times, key=lambda name: (times[name], name))
        job, charge = backlogs[tenant][taken[tenant]]
        order.append(job)
        taken[tenant] += 1
        if taken[tenant] == len(backlogs[tenant]):
            del times[tenant]
        elif len(times) > 1:  # a tenant that waits alone is not charged
            times[tenant] += charge
    return order
