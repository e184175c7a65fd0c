"""The event loop: requests arrive, the first in the queue get slots, time passes, requests end."""

from __future__ import annotations

import math

from lengthwise_lab.simulator.core.compiled import compiled
from lengthwise_lab.simulator.core.histograms import Histograms
from lengthwise_lab.simulator.core.orders import key_of_slot, keys_changed
from lengthwise_lab.simulator.core.parameters import Parameters
from lengthwise_lab.simulator.core.slots import admit, end_requests, fits, preempt, worst_slot
from lengthwise_lab.simulator.core.state import (
    ARRIVAL,
    BACKLOG,
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
    NEXT_INCOMING,
    NOW,
    NUMBER,
    ORDER,
    OUT,
    PRED,
    PREFILL,
    PROMPT,
    QUOTA,
    RING_HEAD,
    RING_TAIL,
    SIZE,
    SLACK,
    TENANT,
    Incoming,
    State,
    X,
)
from lengthwise_lab.simulator.core.steps import pass_work
from lengthwise_lab.simulator.core.waiting_queue import enter, first, rebuild_heap
from lengthwise_queue.scheduling.policy import overtake_bound_ms

#: The reasons why `run` returns: it needs the next requests, it needs more places in the pool, or
#: the simulation is over.
MORE, GROW, OVER = range(3)


@compiled
def _next_arrival(state: State, params: Parameters, incoming: Incoming) -> float:
    """Return when the next request arrives, s; infinite: never, or not before another ends."""
    at = state.i[NEXT_INCOMING]
    if at >= len(incoming.arrival_s):
        return math.inf
    if params.think_s < 0:
        return float(incoming.arrival_s[at])
    head = state.i[RING_HEAD]
    if head == state.i[RING_TAIL]:
        return math.inf
    return float(state.ring[head % len(state.ring)])


#: The product's own formula: how far a request may be overtaken.
_bound = compiled(overtake_bound_ms)


@compiled
def _set_slack_by_wait(state: State, params: Parameters, a: int) -> None:
    """Raise the slack of a new request by the wait that it finds, as the queue service does.

    The wait is the predicted work of the waiting requests at the pace of a full engine; running
    requests do not count.
    """
    slots = len(state.run_n)
    pace = 1.0 if params.independent else params.step_s + params.decode_s * slots
    credit = params.order.wait_factor * state.s[BACKLOG] * pace / slots
    by_wait = _bound(state.f[a, PRED] * pace, 0.0, params.order.usual * pace, credit)
    state.f[a, SLACK] = max(state.f[a, SLACK], by_wait)


@compiled
def _arrive(state: State, params: Parameters, incoming: Incoming, arrival_s: float) -> None:
    """Put the next request into the queue; the pool has a free place."""
    at = state.i[NEXT_INCOMING]
    state.i[NEXT_INCOMING] = at + 1
    if params.think_s >= 0:
        state.i[RING_HEAD] += 1
    state.i[N_FREE] -= 1
    a = state.free[state.i[N_FREE]]
    state.i[COUNTER] += 1
    f, n = state.f[a], state.n[a]
    f[:] = 0.0
    f[ARRIVAL] = arrival_s
    f[SIZE] = incoming.work[at]
    f[PRED] = max(incoming.predicted[at], 1e-9)
    f[SLACK] = incoming.slack[at]
    f[QUOTA] = incoming.quota[at]
    f[FIRST] = -1.0
    f[LAST_X] = state.s[X]
    f[LAST_T] = arrival_s
    f[ORDER] = state.i[COUNTER]
    n[:] = 0
    n[PROMPT] = incoming.prompt[at]
    n[OUT] = incoming.output[at]
    n[TENANT] = incoming.tenant[at]
    n[NUMBER] = state.i[FIRST_NUMBER] + at
    n[PREFILL] = max(1, incoming.prompt[at])
    if params.order.wait_factor > 0:
        _set_slack_by_wait(state, params, a)
    enter(state, params, a)


@compiled
def _dispatch(state: State, params: Parameters) -> None:
    """Give slots to the first requests in the queue; preempt worse ones where the policy does."""
    slots = len(state.run_n)
    while state.i[N_WAIT] > 0:
        a = first(state, params)
        if state.i[N_RUN] < slots and fits(state, params, a):
            admit(state, params, a)
            continue
        if not params.order.preemptive or state.i[N_RUN] == 0:
            return  # the first request that does not fit blocks the rest, as in vLLM
        j = worst_slot(state, params)
        if not state.f[a, KEY] < key_of_slot(state, params.order, j):
            return
        preempt(state, params, j)


@compiled
def run(
    state: State, params: Parameters, histograms: Histograms, incoming: Incoming, last: bool
) -> int:
    """Simulate until the incoming requests are used up (unless they are the last), or to the end.

    Args:
        state: The simulation so far; it is changed.
        params: The engine, the policy and the limits.
        histograms: Where ended requests are counted.
        incoming: The next requests.
        last: Whether no more requests follow these.

    Returns:
        `MORE`: call again with the next requests. `GROW`: call again with a `grown` state and the
        same requests. `OVER`: everything has ended, or a limit is reached.
    """
    slots = len(state.run_n)
    while True:
        state.i[EVENTS] += 1
        end_requests(state, params, histograms)
        if state.i[FINISHED] >= params.stop_after or state.s[NOW] >= params.stop_at_s:
            return OVER
        arrival_s = _next_arrival(state, params, incoming)
        while arrival_s <= state.s[NOW]:
            if state.i[N_FREE] == 0:
                return GROW
            _arrive(state, params, incoming, arrival_s)
            arrival_s = _next_arrival(state, params, incoming)
        if state.i[NEXT_INCOMING] >= len(incoming.arrival_s) and not last:
            return MORE
        if keys_changed(state, params.order):
            rebuild_heap(state, params)
        _dispatch(state, params)
        if state.i[N_RUN] == 0:
            if arrival_s == math.inf:
                return OVER
            state.s[NOW] = arrival_s
            continue
        until_s = params.stop_at_s
        if params.order.preemptive or state.i[N_RUN] < slots:
            until_s = min(until_s, arrival_s)
        pass_work(state, params, until_s)
