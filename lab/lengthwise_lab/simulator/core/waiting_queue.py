"""The waiting queue: requests enter it, leave it, and change their order while they wait."""

from __future__ import annotations

from lengthwise_lab.simulator.core.compiled import compiled
from lengthwise_lab.simulator.core.heap import pop, push
from lengthwise_lab.simulator.core.orders import (
    HRRN,
    INSERTION,
    SSJF_AGING,
    best_by_scan,
    key,
    on_enter,
    shorter,
)
from lengthwise_lab.simulator.core.parameters import Parameters
from lengthwise_lab.simulator.core.state import (
    BACKLOG,
    DONE,
    KEY,
    MAX_WAITING,
    N_WAIT,
    OF_WAITING,
    PRED,
    WAIT_AT,
    State,
)
from lengthwise_lab.simulator.core.tenants import (
    by_tenant,
    heap_of,
    next_tenant,
    on_enter_tenant,
)


@compiled
def enter(state: State, params: Parameters, a: int) -> None:
    """Put request `a` into the queue: a new one, or one that lost its slot."""
    n, order = state.n, params.order
    count = state.i[N_WAIT]
    state.i[N_WAIT] = count + 1
    state.s[BACKLOG] += state.f[a, PRED]
    state.i[MAX_WAITING] = max(state.i[MAX_WAITING], count + 1)
    if order.kind == INSERTION:
        # Sorted, the shortest last; binary insertion takes log2 of the queue's length comparisons.
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            if shorter(state, order, a, state.waiting[middle]):
                low = middle + 1
            else:
                high = middle
        for at in range(count, low, -1):
            state.waiting[at] = state.waiting[at - 1]
        state.waiting[low] = a
        return
    state.waiting[count] = a
    n[a, WAIT_AT] = count
    if order.kind in (HRRN, SSJF_AGING):
        return
    state.f[a, KEY] = key(state, order, a, state.f[a, DONE])
    heap = heap_of(state, order, a)
    if by_tenant(order):
        on_enter_tenant(state, order, heap)
    state.tenant_n[heap, OF_WAITING] += 1
    state.roots[heap] = push(state.f, n, state.roots[heap], a)
    on_enter(state, order, a)


@compiled
def first(state: State, params: Parameters) -> int:
    """Return the request that is served next; the queue is not empty."""
    order = params.order
    if order.kind == INSERTION:
        return int(state.waiting[state.i[N_WAIT] - 1])
    if order.kind in (HRRN, SSJF_AGING):
        # Work in steps takes as many seconds on an idle engine.
        token_s = 1.0 if params.independent else params.step_s + params.decode_s
        return best_by_scan(state, order, token_s)
    if by_tenant(order):
        return int(state.roots[next_tenant(state)])
    return int(state.roots[0])


@compiled
def leave(state: State, params: Parameters, a: int) -> None:
    """Take `a`, which is first, out of the queue."""
    order = params.order
    count = state.i[N_WAIT] - 1
    state.i[N_WAIT] = count
    # An empty queue has a backlog of exactly 0, so that rounding errors do not add up.
    state.s[BACKLOG] = state.s[BACKLOG] - state.f[a, PRED] if count > 0 else 0.0
    if order.kind == INSERTION:
        return
    at = state.n[a, WAIT_AT]
    moved = state.waiting[count]
    state.waiting[at] = moved
    state.n[moved, WAIT_AT] = at
    if order.kind in (HRRN, SSJF_AGING):
        return
    heap = heap_of(state, order, a)
    state.roots[heap] = pop(state.f, state.n, state.roots[heap])
    state.tenant_n[heap, OF_WAITING] -= 1


@compiled
def rebuild_heap(state: State, params: Parameters) -> None:
    """Build the heap again after keys have changed; orders between tenants never need it."""
    root = -1
    for at in range(state.i[N_WAIT]):
        a = state.waiting[at]
        state.f[a, KEY] = key(state, params.order, a, state.f[a, DONE])
        root = push(state.f, state.n, root, a)
    state.roots[0] = root
