"""The line: who comes in, who is next, and how their order changes while they wait."""

from __future__ import annotations

import numpy as np

from lengthwise_lab.simulator.core.compiled import compiled
from lengthwise_lab.simulator.core.heap import pop, push
from lengthwise_lab.simulator.core.priorities import key, shorter
from lengthwise_lab.simulator.core.rules import FAIR, HRRN, INSERTION, LTR, SSJF_AGING, VTC, Rules
from lengthwise_lab.simulator.core.state import (
    ARRIVAL,
    BACKLOG,
    COUNTER,
    DONE,
    KEY,
    LAST_T,
    LAST_X,
    LEVEL,
    MAX_WAITING,
    N_WAIT,
    NEXT_PROMOTION,
    NOW,
    NUMBER,
    ORDER,
    PRED,
    PROMOTED,
    RUNS,
    SIZE,
    TENANT,
    VIRTUAL,
    WAIT_AT,
    State,
    X,
)


@compiled
def enter(state: State, rules: Rules, a: int) -> None:
    """Put request `a` into the line: a new one, or one that comes back."""
    n = state.n
    count = state.i[N_WAIT]
    state.i[N_WAIT] = count + 1
    state.s[BACKLOG] += state.f[a, PRED]
    state.i[MAX_WAITING] = max(state.i[MAX_WAITING], count + 1)
    if rules.kind == INSERTION:
        # Kept with the shortest last; binary insertion, as many questions as the log of the line.
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            if shorter(state, rules, a, state.waiting[middle]):
                low = middle + 1
            else:
                high = middle
        for at in range(count, low, -1):
            state.waiting[at] = state.waiting[at - 1]
        state.waiting[low] = a
        return
    state.waiting[count] = a
    n[a, WAIT_AT] = count
    if rules.kind in (HRRN, SSJF_AGING):
        return
    state.f[a, KEY] = key(state, rules, a, state.f[a, DONE])
    tenant = n[a, TENANT]
    if rules.kind in (VTC, FAIR):
        if state.tenant_n[tenant, 0] == 0:
            floor = state.s[VIRTUAL]
            if rules.kind == VTC:
                floor = _least(state, floor)
            state.tenant_f[tenant, 0] = max(state.tenant_f[tenant, 0], floor)
    else:
        tenant = 0
    state.tenant_n[tenant, 0] += 1
    state.roots[tenant] = push(state.f, n, state.roots[tenant], a)
    if rules.kind == LTR and n[a, PROMOTED] == 0:
        due = state.f[a, LAST_X] + rules.promote_after
        state.s[NEXT_PROMOTION] = min(state.s[NEXT_PROMOTION], due)


@compiled
def _least(state: State, fallback: float) -> float:
    """The smallest counter of those who wait; VTC lifts a tenant that comes back to it."""
    least = np.inf
    for tenant in range(len(state.roots)):
        if state.tenant_n[tenant, 0] > 0:
            least = min(least, state.tenant_f[tenant, 0])
    return fallback if least == np.inf else least


@compiled
def first(state: State, rules: Rules) -> int:
    """Who is next; the line is not empty."""
    if rules.kind == INSERTION:
        return int(state.waiting[state.i[N_WAIT] - 1])
    if rules.kind == HRRN:
        return _highest_response_ratio(state)
    if rules.kind == SSJF_AGING:
        return _shortest_unless_starving(state, rules)
    if rules.kind in (VTC, FAIR):
        return int(state.roots[_next_tenant(state)])
    return int(state.roots[0])


@compiled
def _next_tenant(state: State) -> int:
    best = -1
    for tenant in range(len(state.roots)):
        if state.tenant_n[tenant, 0] > 0 and (
            best < 0 or state.tenant_f[tenant, 0] < state.tenant_f[best, 0]
        ):
            best = tenant
    return best


@compiled
def _highest_response_ratio(state: State) -> int:
    f = state.f
    best, ratio = -1, -1.0
    for at in range(state.i[N_WAIT]):
        a = state.waiting[at]
        own = (state.s[NOW] - f[a, ARRIVAL]) / f[a, PRED]
        if own > ratio or (own == ratio and state.n[a, NUMBER] < state.n[best, NUMBER]):
            best, ratio = a, own
    return best


@compiled
def _shortest_unless_starving(state: State, rules: Rules) -> int:
    """SSJF's aging: if the longest waiter has waited too long, this dispatch goes to it."""
    f = state.f
    oldest = best = state.waiting[0]
    for at in range(1, state.i[N_WAIT]):
        a = state.waiting[at]
        if state.n[a, NUMBER] < state.n[oldest, NUMBER]:
            oldest = a
        if f[a, PRED] < f[best, PRED] or (
            f[a, PRED] == f[best, PRED] and state.n[a, NUMBER] < state.n[best, NUMBER]
        ):
            best = a
    waited = state.s[NOW] - f[oldest, ARRIVAL]
    length = f[oldest, SIZE] if rules.aging_true else f[oldest, PRED]
    # Lengths in steps are seconds on an idle engine.
    seconds = length if rules.independent else length * (rules.step_s + rules.decode_s)
    if waited > rules.aging_s or waited > rules.aging_times * seconds:
        return int(oldest)
    return int(best)


@compiled
def leave(state: State, rules: Rules, a: int) -> None:
    """Take `a`, which is first, out of the line."""
    count = state.i[N_WAIT] - 1
    state.i[N_WAIT] = count
    # An empty line is 0 exactly: what rounding left behind must not add up.
    state.s[BACKLOG] = state.s[BACKLOG] - state.f[a, PRED] if count > 0 else 0.0
    if rules.kind == INSERTION:
        return
    at = state.n[a, WAIT_AT]
    moved = state.waiting[count]
    state.waiting[at] = moved
    state.n[moved, WAIT_AT] = at
    if rules.kind in (HRRN, SSJF_AGING):
        return
    tenant = state.n[a, TENANT] if rules.kind in (VTC, FAIR) else 0
    state.roots[tenant] = pop(state.f, state.n, state.roots[tenant])
    state.tenant_n[tenant, 0] -= 1


@compiled
def reorder(state: State, rules: Rules) -> None:
    """Build the heap anew after keys have changed; policies with tenants never need it."""
    root = -1
    for at in range(state.i[N_WAIT]):
        a = state.waiting[at]
        state.f[a, KEY] = key(state, rules, a, state.f[a, DONE])
        root = push(state.f, state.n, root, a)
    state.roots[0] = root


@compiled
def promote_idle(state: State, rules: Rules) -> None:
    """LTR: whoever was idle for `promote_after` steps goes to the front for `promote_for`."""
    state.s[NEXT_PROMOTION] = np.inf
    changed = False
    for at in range(state.i[N_WAIT]):
        a = state.waiting[at]
        if state.n[a, PROMOTED] == 1:
            continue
        due = state.f[a, LAST_X] + rules.promote_after
        if due <= state.s[X]:
            state.n[a, PROMOTED] = 1
            state.n[a, RUNS] = rules.promote_for
            changed = True
        else:
            state.s[NEXT_PROMOTION] = min(state.s[NEXT_PROMOTION], due)
    if changed:
        reorder(state, rules)


@compiled
def lift_starving(state: State, rules: Rules) -> None:
    """MLFQ with its aging: whoever waited `aging_s` starts again in the first queue.

    Looked for every 100 steps, as often as LTR's scheduler does.
    """
    if state.s[X] < state.s[NEXT_PROMOTION]:
        return
    state.s[NEXT_PROMOTION] = state.s[X] + 100
    changed = False
    for at in range(state.i[N_WAIT]):
        a = state.waiting[at]
        if state.n[a, LEVEL] > 0 and state.s[NOW] - state.f[a, LAST_T] > rules.aging_s:
            state.n[a, LEVEL] = 0
            state.i[COUNTER] += 1
            state.f[a, ORDER] = state.i[COUNTER]
            changed = True
    if changed:
        reorder(state, rules)
