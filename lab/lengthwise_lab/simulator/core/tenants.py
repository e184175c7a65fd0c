"""The order between tenants: VTC and FAIR serve the tenant with the smallest counter next."""

from __future__ import annotations

import numpy as np

from lengthwise_lab.simulator.core.compiled import compiled
from lengthwise_lab.simulator.core.orders import FAIR, VTC, OrderParameters
from lengthwise_lab.simulator.core.state import (
    DONE,
    N_WAIT,
    OF_DECODING,
    OF_WAITING,
    PRED,
    PROC,
    PROMPT,
    SIZE,
    TENANT,
    VIRTUAL,
    VTIME,
    WEIGHT,
    State,
)


@compiled
def by_tenant(order: OrderParameters) -> bool:
    """Return whether each tenant has a heap of its own."""
    return bool(order.kind in (VTC, FAIR))


@compiled
def heap_of(state: State, order: OrderParameters, a: int) -> int:
    """Return the index of the heap that request `a` waits in."""
    return int(state.n[a, TENANT]) if by_tenant(order) else 0


@compiled
def on_enter_tenant(state: State, order: OrderParameters, tenant: int) -> None:
    """Lift the counter of a tenant that had no request waiting, so that idling earns no credit."""
    if state.tenant_n[tenant, OF_WAITING] > 0:
        return
    floor = state.s[VIRTUAL]
    if order.kind == VTC:
        floor = _least(state, floor)
    state.tenant_f[tenant, VTIME] = max(state.tenant_f[tenant, VTIME], floor)


@compiled
def _least(state: State, fallback: float) -> float:
    """Return the smallest counter of the tenants with waiting requests."""
    least = np.inf
    for tenant in range(len(state.roots)):
        if state.tenant_n[tenant, OF_WAITING] > 0:
            least = min(least, state.tenant_f[tenant, VTIME])
    return fallback if least == np.inf else least


@compiled
def next_tenant(state: State) -> int:
    """Return the tenant with waiting requests and the smallest counter."""
    best = -1
    for tenant in range(len(state.roots)):
        if state.tenant_n[tenant, OF_WAITING] > 0 and (
            best < 0 or state.tenant_f[tenant, VTIME] < state.tenant_f[best, VTIME]
        ):
            best = tenant
    return best


@compiled
def charge_start(state: State, order: OrderParameters, a: int) -> None:
    """Charge the tenant of `a` when it is served first, as the queue service's claim.lua does."""
    if state.f[a, DONE] > 0:
        return  # it was charged when it was first served
    tenant = state.n[a, TENANT]
    own = state.tenant_f[tenant]
    if order.kind == VTC:
        own[VTIME] += order.prompt_weight * state.n[a, PROMPT] / own[WEIGHT]
    elif order.kind == FAIR:
        waiting = state.tenant_n[tenant, OF_WAITING]
        state.f[a, PROC] = 0.0
        if waiting < state.i[N_WAIT]:  # a tenant that waits alone is not charged
            state.s[VIRTUAL] = own[VTIME]
            own[VTIME] += state.f[a, PRED] / own[WEIGHT]
            state.f[a, PROC] = state.f[a, PRED]


@compiled
def on_leave_tenant(state: State, order: OrderParameters, a: int) -> None:
    """Raise the virtual time to the counter of the tenant of `a`, if `a` left the queue empty."""
    if by_tenant(order) and state.i[N_WAIT] == 0:
        state.s[VIRTUAL] = max(state.s[VIRTUAL], state.tenant_f[state.n[a, TENANT], VTIME])


@compiled
def charge_work(state: State, order: OrderParameters, work: float) -> None:
    """VTC: charge every tenant for the tokens that its requests have decoded."""
    if order.kind != VTC:
        return
    for tenant in range(len(state.roots)):
        served = order.output_weight * work * state.tenant_n[tenant, OF_DECODING]
        state.tenant_f[tenant, VTIME] += served / state.tenant_f[tenant, WEIGHT]


@compiled
def correct_charge(state: State, order: OrderParameters, a: int) -> None:
    """FAIR: replace the predicted length that `a` was charged by its true one."""
    if order.kind == FAIR and state.f[a, PROC] > 0:
        own = state.tenant_f[state.n[a, TENANT]]
        own[VTIME] += (state.f[a, SIZE] - state.f[a, PROC]) / own[WEIGHT]
