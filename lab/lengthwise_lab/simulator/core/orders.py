"""The orders in which requests are served: every branch of the compiled loop on a policy's kind.

A request has a key, and the smallest key is served first. The other modules call the hooks below
and do not know the kinds; tenants.py has what VTC and FAIR add between tenants.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from lengthwise_lab.simulator.core.compiled import compiled
from lengthwise_lab.simulator.core.state import (
    ARRIVAL,
    COUNTER,
    DONE,
    FIRST,
    LAST_T,
    LAST_X,
    LEVEL,
    N_RUN,
    N_WAIT,
    NEXT_PROMOTION,
    NOW,
    NUMBER,
    ORDER,
    PRED,
    PROC,
    PROMOTED,
    RUNS,
    SIZE,
    SLACK,
    START_T,
    START_X,
    Floats,
    State,
    X,
)

# These keep the waiting requests in a heap; policies.py has what each is for.
STATIC, SRPT, PREDICTED_SRPT, GITTINS, REMAINING, LTR, PERCEPTION, MLFQ = range(8)
# These scan the whole queue at each dispatch, because waiting changes their order.
HRRN, SSJF_AGING = 8, 9
# This keeps the queue itself sorted, by asking which of two requests is shorter.
INSERTION = 10
# These keep a heap for each tenant; the tenant with the smallest counter is next.
VTC, FAIR = 11, 12

#: Larger than any key: a request that has priority by a rule is in front by this much.
FRONT = 1e9
#: The distance between the queues of MLFQ, more than the places that it gives out in one of them.
LEVELS = 1e12
#: PO asks the LLM itself, which reports its length after so many tokens (LTR's benchmark).
PERCEIVED = 15.0
#: MLFQ looks for starving requests every so many steps, as often as LTR's scheduler does.
LIFT_EVERY = 100.0


class OrderParameters(NamedTuple):
    """The numbers of one policy; policies.py sets them.

    Attributes:
        kind: One of the orders above.
        preemptive: 1: a better request takes a running one's slot.
        age_weight: 1: the key is slack + arrival, so waiting counts; 0: the slack alone.
        wait_factor: STATIC: up to how many times the wait that it finds a long request may be
            overtaken (the product's `overtake_wait_factor`, less what poor predictions cost).
        usual: With `wait_factor`: the mean predicted work.
        promote_after, promote_for: LTR: idle steps, and steps at the front.
        quantum_s, quantum_factor: MLFQ: time in the first queue, and its growth from queue to
            queue.
        aging_s: SSJF, MLFQ: waiting that is too long, s; 0: no aging.
        aging_times: SSJF: waiting that is too long, times the request's own length.
        aging_true: 1: SSJF: its true length, as published; 0: the predicted one.
        limit: REMAINING: no request is preempted after this share of its predicted length.
        review: After how much work running requests are compared again, where keys change.
        pair_accuracy: INSERTION: how often a comparison is right.
        prompt_weight, output_weight: VTC: what a token costs its tenant.
        table_step: Of `table`'s first axis, in predicted lengths.
        table: (ages,): a policy's function of age / predicted length.
    """

    kind: int = STATIC
    preemptive: int = 0
    age_weight: float = 1.0
    wait_factor: float = 0.0
    usual: float = 0.0
    promote_after: float = 0.0
    promote_for: int = 0
    quantum_s: float = 0.01
    quantum_factor: float = 2.0
    aging_s: float = 0.0
    aging_times: float = 10.0
    aging_true: int = 1
    limit: float = 0.8
    review: float = 16.0
    pair_accuracy: float = 1.0
    prompt_weight: float = 1.0
    output_weight: float = 2.0
    table_step: float = 0.01
    table: Floats = np.ones(2)


def first_review(kind: int) -> float:
    """Return the step of the first `keys_changed` that looks at the queue; infinite: none yet."""
    return 0.0 if kind == MLFQ else math.inf


@compiled
def look_up(order: OrderParameters, ratio: float) -> float:
    """Return the policy's function at an age of `ratio` predicted lengths, constant at the end."""
    at = ratio / order.table_step
    last = len(order.table) - 1
    if at >= last:
        return float(order.table[last])
    below = int(at)
    return float(order.table[below] + (at - below) * (order.table[below + 1] - order.table[below]))


@compiled
def key(state: State, order: OrderParameters, a: int, done: float) -> float:
    """Return the key of request `a` after `done` work."""
    f = state.f
    kind = order.kind
    if kind == SRPT:
        return float(f[a, SIZE] - done)
    if kind == PREDICTED_SRPT:
        return float(max(f[a, PRED] - done, 0.0))
    if kind in (GITTINS, REMAINING):
        return float(f[a, PRED] * look_up(order, done / f[a, PRED]))
    if kind == MLFQ:
        return float(state.n[a, LEVEL] * LEVELS + f[a, ORDER])
    if kind == PERCEPTION:
        return float(f[a, SLACK]) if done >= PERCEIVED else float(f[a, ARRIVAL] - FRONT)
    own = float(f[a, SLACK] + order.age_weight * f[a, ARRIVAL])
    if kind == LTR and state.n[a, PROMOTED] > 0:
        own -= FRONT
    return own


@compiled
def work_done(state: State, j: int) -> float:
    """Return the work that the request in slot `j` has received; the prompt does not count."""
    a = state.run_n[j]
    if state.run_f[j, START_X] < 0:
        return float(state.f[a, DONE])
    return float(state.f[a, DONE] + state.s[X] - state.run_f[j, START_X])


@compiled
def key_of_slot(state: State, order: OrderParameters, j: int) -> float:
    """Return the key of the request in slot `j`, which decides who is preempted."""
    a = state.run_n[j]
    if order.kind in (HRRN, SSJF_AGING, INSERTION):
        return float(state.f[a, FIRST])  # only when KV blocks run out: the last to start goes
    done = work_done(state, j)
    if order.kind == REMAINING and done >= order.limit * state.f[a, PRED]:
        return -FRONT
    return key(state, order, a, done)


@compiled
def shorter(state: State, order: OrderParameters, a: int, b: int) -> bool:
    """Compare the lengths of two requests; the answer is right with `pair_accuracy`.

    The same two requests get the same answer each time, as from a model: the chance comes from
    their numbers (the finaliser of splitmix64).
    """
    truth = state.f[a, SIZE] < state.f[b, SIZE]
    low = np.uint64(min(state.n[a, NUMBER], state.n[b, NUMBER]))
    high = np.uint64(max(state.n[a, NUMBER], state.n[b, NUMBER]))
    z = low * np.uint64(0x9E3779B97F4A7C15) + high * np.uint64(0xC2B2AE3D27D4EB4F)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    chance = float(z >> np.uint64(11)) / 9007199254740992.0
    return bool(truth if chance < order.pair_accuracy else not truth)


@compiled
def best_by_scan(state: State, order: OrderParameters, token_s: float) -> int:
    """Return the next request of HRRN or SSJF_AGING; `token_s`: seconds of a unit of work alone."""
    f = state.f
    if order.kind == HRRN:
        best, ratio = -1, -1.0
        for at in range(state.i[N_WAIT]):
            a = state.waiting[at]
            own = (state.s[NOW] - f[a, ARRIVAL]) / f[a, PRED]
            if own > ratio or (own == ratio and state.n[a, NUMBER] < state.n[best, NUMBER]):
                best, ratio = a, own
        return best
    # SSJF's aging: if the longest waiter has waited too long, this dispatch goes to it.
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
    length = f[oldest, SIZE] if order.aging_true else f[oldest, PRED]
    if waited > order.aging_s or waited > order.aging_times * (length * token_s):
        return int(oldest)
    return int(best)


@compiled
def on_enter(state: State, order: OrderParameters, a: int) -> None:
    """Note that request `a` has entered the queue."""
    if order.kind == LTR and state.n[a, PROMOTED] == 0:
        due = state.f[a, LAST_X] + order.promote_after
        state.s[NEXT_PROMOTION] = min(state.s[NEXT_PROMOTION], due)


@compiled
def on_preempt(state: State, order: OrderParameters, j: int) -> None:
    """Note that the request in slot `j` is about to lose it."""
    if order.kind == MLFQ:
        state.f[state.run_n[j], PROC] += state.s[NOW] - state.run_f[j, START_T]


@compiled
def keys_changed(state: State, order: OrderParameters) -> bool:
    """Promote waiting requests whose time has come; return whether the heap must be rebuilt.

    LTR: a request that was idle for `promote_after` steps goes to the front for `promote_for`.
    MLFQ with its aging: a request that waited `aging_s` starts again in the first queue.
    """
    ages = order.kind == LTR or (order.kind == MLFQ and order.aging_s > 0)
    if not ages or state.s[X] < state.s[NEXT_PROMOTION]:
        return False
    changed = False
    state.s[NEXT_PROMOTION] = np.inf if order.kind == LTR else state.s[X] + LIFT_EVERY
    for at in range(state.i[N_WAIT]):
        a = state.waiting[at]
        if order.kind == MLFQ:
            if state.n[a, LEVEL] > 0 and state.s[NOW] - state.f[a, LAST_T] > order.aging_s:
                state.n[a, LEVEL] = 0
                state.i[COUNTER] += 1
                state.f[a, ORDER] = state.i[COUNTER]
                changed = True
        elif state.n[a, PROMOTED] != 1:
            due = state.f[a, LAST_X] + order.promote_after
            if due <= state.s[X]:
                state.n[a, PROMOTED] = 1
                state.n[a, RUNS] = order.promote_for
                changed = True
            else:
                state.s[NEXT_PROMOTION] = min(state.s[NEXT_PROMOTION], due)
    return changed


@compiled
def until_order_changes(state: State, order: OrderParameters) -> tuple[float, float]:
    """Return after how much work, and after how many seconds, running requests are reviewed."""
    kind = order.kind
    if kind in (GITTINS, REMAINING):
        return order.review, math.inf
    work, seconds = math.inf, math.inf
    if kind == LTR or (kind == MLFQ and order.aging_s > 0):
        work = max(1.0, state.s[NEXT_PROMOTION] - state.s[X])
    for j in range(state.i[N_RUN]):
        a = state.run_n[j]
        if kind == LTR and state.n[a, PROMOTED] > 0:
            work = min(work, float(max(1, state.n[a, RUNS])))
        elif kind == PERCEPTION:
            done = work_done(state, j)
            if done < PERCEIVED:
                work = min(work, PERCEIVED - done)
        elif kind == MLFQ:
            quantum = order.quantum_s * order.quantum_factor ** state.n[a, LEVEL]
            served = state.f[a, PROC] + state.s[NOW] - state.run_f[j, START_T]
            seconds = min(seconds, max(quantum - served, 0.0))
    return work, seconds


@compiled
def after_work(state: State, order: OrderParameters, work: float) -> None:
    """Count the work that running requests have received, where the order depends on it."""
    if order.kind == LTR:
        for j in range(state.i[N_RUN]):
            a = state.run_n[j]
            if state.n[a, PROMOTED] > 0:
                state.n[a, RUNS] -= int(work)
                if state.n[a, RUNS] <= 0:
                    state.n[a, PROMOTED] = 0
    elif order.kind == MLFQ:
        for j in range(state.i[N_RUN]):
            a = state.run_n[j]
            quantum = order.quantum_s * order.quantum_factor ** state.n[a, LEVEL]
            if state.f[a, PROC] + state.s[NOW] - state.run_f[j, START_T] >= quantum * (1 - 1e-9):
                state.n[a, LEVEL] += 1
                state.f[a, PROC] = 0.0
                state.run_f[j, START_T] = state.s[NOW]
                state.i[COUNTER] += 1
                state.f[a, ORDER] = -state.i[COUNTER]  # to the front of its queue, as published
