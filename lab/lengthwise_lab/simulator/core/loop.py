"""The event loop: arrivals come in, the first of the line get slots, work passes, requests end."""

from __future__ import annotations

import math

from lengthwise_lab.simulator.core.compiled import compiled
from lengthwise_lab.simulator.core.line import enter, first, lift_starving, promote_idle
from lengthwise_lab.simulator.core.priorities import key_of_slot
from lengthwise_lab.simulator.core.rules import LTR, MLFQ, Rules
from lengthwise_lab.simulator.core.slots import admit, end_requests, fits, preempt, worst_slot
from lengthwise_lab.simulator.core.state import (
    ARRIVAL,
    BACKLOG,
    CHUNK,
    COUNTER,
    EVENTS,
    FINISHED,
    FIRST,
    FIRST_NUMBER,
    KEY,
    LAST_T,
    LAST_X,
    N_FREE,
    N_RUN,
    N_WAIT,
    NEXT_IN_CHUNK,
    NEXT_PROMOTION,
    NOW,
    NUMBER,
    ORDER,
    OUT,
    PRED,
    PREFILL,
    PROMPT,
    RING_HEAD,
    RING_TAIL,
    SIZE,
    SLACK,
    TENANT,
    Chunk,
    State,
    X,
)
from lengthwise_lab.simulator.core.steps import pass_work
from lengthwise_lab.simulator.core.tally import Tally
from lengthwise_queue.scheduling.policy import overtake_bound_ms

#: Why `run` came back: it wants the next chunk, more room in the pool, or all is done.
MORE, GROW, OVER = range(3)


@compiled
def _next_arrival(state: State, rules: Rules, chunk: Chunk) -> float:
    """When the next request comes, s; infinite: not before somebody ends, or never."""
    at = state.i[NEXT_IN_CHUNK]
    if at >= len(chunk.arrival_s):
        return math.inf
    if rules.think_s < 0:
        return float(chunk.arrival_s[at])
    head = state.i[RING_HEAD]
    if head == state.i[RING_TAIL]:
        return math.inf
    return float(state.ring[head % len(state.ring)])


#: The product's own: how far a request may be overtaken.
_bound = compiled(overtake_bound_ms)


@compiled
def _follow_the_wait(state: State, rules: Rules, a: int) -> None:
    """Give a request that arrives its slack by the line that it finds, as the queue service does.

    What waits is worth its predicted work at the pace of a full engine; who runs does not count.
    """
    slots = len(state.run_n)
    pace = 1.0 if rules.independent else rules.step_s + rules.decode_s * slots
    credit = rules.wait_factor * state.s[BACKLOG] * pace / slots
    by_wait = _bound(state.f[a, PRED] * pace, 0.0, rules.usual * pace, credit)
    state.f[a, SLACK] = max(state.f[a, SLACK], by_wait)


@compiled
def _arrive(state: State, rules: Rules, chunk: Chunk, arrival_s: float) -> None:
    """Put the chunk's next request into the line; there is room in the pool."""
    at = state.i[NEXT_IN_CHUNK]
    state.i[NEXT_IN_CHUNK] = at + 1
    if rules.think_s >= 0:
        state.i[RING_HEAD] += 1
    state.i[N_FREE] -= 1
    a = state.free[state.i[N_FREE]]
    state.i[COUNTER] += 1
    f, n = state.f[a], state.n[a]
    f[:] = 0.0
    f[ARRIVAL] = arrival_s
    f[SIZE] = chunk.work[at]
    f[PRED] = max(chunk.predicted[at], 1e-9)
    f[SLACK] = chunk.slack[at]
    f[CHUNK] = chunk.chunk[at]
    f[FIRST] = -1.0
    f[LAST_X] = state.s[X]
    f[LAST_T] = arrival_s
    f[ORDER] = state.i[COUNTER]
    n[:] = 0
    n[PROMPT] = chunk.prompt[at]
    n[OUT] = chunk.output[at]
    n[TENANT] = chunk.tenant[at]
    n[NUMBER] = state.i[FIRST_NUMBER] + at
    n[PREFILL] = max(1, chunk.prompt[at])
    if rules.wait_factor > 0:
        _follow_the_wait(state, rules, a)
    enter(state, rules, a)


@compiled
def _dispatch(state: State, rules: Rules) -> None:
    """Give slots to the first of the line, taking them away from worse ones if that is allowed."""
    slots = len(state.run_n)
    while state.i[N_WAIT] > 0:
        a = first(state, rules)
        if state.i[N_RUN] < slots and fits(state, rules, a):
            admit(state, rules, a)
            continue
        if not rules.preemptive or state.i[N_RUN] == 0:
            return  # the first that does not fit holds up the rest, as in vLLM
        j = worst_slot(state, rules)
        if not state.f[a, KEY] < key_of_slot(state, rules, j):
            return
        preempt(state, rules, j)


@compiled
def run(state: State, rules: Rules, tally: Tally, chunk: Chunk, last: bool) -> int:
    """Go on until the chunk is used up (unless it is the last), or all is done.

    Args:
        state: Where the simulation stands; it goes on from there.
        rules: The engine and the policy.
        tally: Where those that end are counted.
        chunk: The requests that come next.
        last: Whether no chunk follows.

    Returns:
        `MORE`: call again with the next chunk. `GROW`: call again with a `grown` state and the
        same chunk. `OVER`: everything has ended, or the limit is reached.
    """
    slots = len(state.run_n)
    while True:
        state.i[EVENTS] += 1
        end_requests(state, rules, tally)
        if state.i[FINISHED] >= rules.stop_after or state.s[NOW] >= rules.stop_at_s:
            return OVER
        arrival_s = _next_arrival(state, rules, chunk)
        while arrival_s <= state.s[NOW]:
            if state.i[N_FREE] == 0:
                return GROW
            _arrive(state, rules, chunk, arrival_s)
            arrival_s = _next_arrival(state, rules, chunk)
        if state.i[NEXT_IN_CHUNK] >= len(chunk.arrival_s) and not last:
            return MORE
        if rules.kind == LTR and state.s[X] >= state.s[NEXT_PROMOTION]:
            promote_idle(state, rules)
        if rules.kind == MLFQ and rules.aging_s > 0:
            lift_starving(state, rules)
        _dispatch(state, rules)
        if state.i[N_RUN] == 0:
            if arrival_s == math.inf:
                return OVER
            state.s[NOW] = arrival_s
            continue
        until_s = rules.stop_at_s
        if rules.preemptive or state.i[N_RUN] < slots:
            until_s = min(until_s, arrival_s)
        pass_work(state, rules, until_s)
