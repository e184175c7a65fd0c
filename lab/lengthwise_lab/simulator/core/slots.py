"""The engine's slots: requests are admitted, preempted, requeued and finished."""

from __future__ import annotations

import numpy as np

from lengthwise_lab.simulator.core.compiled import compiled
from lengthwise_lab.simulator.core.histograms import Histograms, count_ended
from lengthwise_lab.simulator.core.orders import key_of_slot, on_preempt, work_done
from lengthwise_lab.simulator.core.parameters import Parameters
from lengthwise_lab.simulator.core.state import (
    ARRIVAL,
    CONTEXT,
    DONE,
    END,
    FINISHED,
    FIRST,
    FREE_BLOCKS,
    GAP,
    LAST_T,
    LAST_X,
    N_DECODE,
    N_FREE,
    N_PREFILL,
    N_RUN,
    NEWEST_STARTED,
    NEXT_END,
    NOW,
    NUMBER,
    OF_DECODING,
    OVERTAKEN,
    PREEMPTIONS,
    PREFILL,
    PROMPT,
    QUOTA,
    REDONE,
    RING_TAIL,
    SIZE,
    SLACK,
    STALL,
    START_T,
    START_X,
    TENANT,
    TTFT,
    State,
    X,
)
from lengthwise_lab.simulator.core.tenants import charge_start, correct_charge, on_leave_tenant
from lengthwise_lab.simulator.core.waiting_queue import enter, leave


@compiled
def blocks_of(params: Parameters, tokens: float) -> int:
    """Return the KV blocks that so many tokens need."""
    return int((int(tokens) + params.block_size - 1) // params.block_size)


@compiled
def fits(state: State, params: Parameters, a: int) -> bool:
    """Return whether there are KV blocks for the context of `a` and one more token."""
    if not params.limited:
        return True
    need = blocks_of(params, state.n[a, PROMPT] + state.f[a, DONE] + 1)
    return bool(need <= state.i[FREE_BLOCKS])


@compiled
def admit(state: State, params: Parameters, a: int) -> None:
    """Give a slot to `a`, which is first in the queue."""
    f, n, now = state.f, state.n, state.s[NOW]
    charge_start(state, params.order, a)
    leave(state, params, a)
    on_leave_tenant(state, params.order, a)
    if f[a, FIRST] < 0:
        f[a, FIRST] = now
        f[a, OVERTAKEN] = max(0.0, state.s[NEWEST_STARTED] - f[a, ARRIVAL])
        state.s[NEWEST_STARTED] = max(state.s[NEWEST_STARTED], f[a, ARRIVAL])
    j = state.i[N_RUN]
    state.i[N_RUN] = j + 1
    state.run_n[j] = a
    state.run_f[j, START_T] = now
    if params.limited:
        # Computing the prompt makes a token; a request whose KV was kept continues where it was.
        first_token = 1 if n[a, PREFILL] > 0 else 0
        state.i[FREE_BLOCKS] -= blocks_of(params, n[a, PROMPT] + f[a, DONE] + first_token)
    if params.independent or n[a, PREFILL] == 0:
        if f[a, DONE] > 0:
            f[a, GAP] = max(f[a, GAP], now - f[a, LAST_T])
            if params.swap:
                state.s[STALL] += params.swap_s * blocks_of(params, n[a, PROMPT] + f[a, DONE])
        elif params.independent:
            f[a, TTFT] = now
        decode(state, params, j)
    else:
        state.run_f[j, START_X] = -1.0
        state.run_f[j, END] = np.inf
        state.prefill[state.i[N_PREFILL]] = a
        state.i[N_PREFILL] += 1


@compiled
def decode(state: State, params: Parameters, j: int) -> None:
    """Start decoding in slot `j`, whose prompt is computed: one token a step from now on."""
    a = state.run_n[j]
    f, x = state.f, state.s[X]
    state.run_f[j, START_X] = x
    end = x + min(f[a, SIZE] - f[a, DONE], f[a, QUOTA])
    state.run_f[j, END] = end
    state.s[NEXT_END] = min(state.s[NEXT_END], end)
    state.i[N_DECODE] += 1
    state.tenant_n[state.n[a, TENANT], OF_DECODING] += 1
    if not params.independent:
        context = state.n[a, PROMPT] + f[a, DONE]
        state.s[CONTEXT] += context
        state.phases[int(x - context) % params.block_size] += 1


@compiled
def _vacate(state: State, params: Parameters, j: int) -> None:
    """Take the request in slot `j` out of the engine; it keeps the work that it has received."""
    a = state.run_n[j]
    f, n, x = state.f, state.n, state.s[X]
    done = work_done(state, j)
    if state.run_f[j, START_X] < 0:
        if params.limited:
            state.i[FREE_BLOCKS] += blocks_of(params, n[a, PROMPT] + done + 1)
        at = 0
        while state.prefill[at] != a:
            at += 1
        state.i[N_PREFILL] -= 1
        for later in range(at, state.i[N_PREFILL]):
            state.prefill[later] = state.prefill[later + 1]
    else:
        state.i[N_DECODE] -= 1
        state.tenant_n[n[a, TENANT], OF_DECODING] -= 1
        if not params.independent:
            context = n[a, PROMPT] + done
            state.s[CONTEXT] -= context
            state.phases[int(x - context) % params.block_size] -= 1
            if params.limited:
                state.i[FREE_BLOCKS] += blocks_of(params, context)
    f[a, DONE] = done
    f[a, LAST_X] = x
    f[a, LAST_T] = state.s[NOW]
    last = state.i[N_RUN] - 1
    state.i[N_RUN] = last
    state.run_n[j] = state.run_n[last]
    for column in range(3):
        state.run_f[j, column] = state.run_f[last, column]


@compiled
def preempt(state: State, params: Parameters, j: int) -> None:
    """Put the request in slot `j` back into the queue; its KV is swapped out, or lost."""
    a = state.run_n[j]
    decoding = state.run_f[j, START_X] >= 0
    on_preempt(state, params.order, j)
    _vacate(state, params, j)
    state.i[PREEMPTIONS] += 1
    context = state.n[a, PROMPT] + int(state.f[a, DONE])
    if params.independent:
        state.n[a, PREFILL] = 0
    elif not params.swap:
        state.i[REDONE] += context if decoding else 0
        state.n[a, PREFILL] = max(1, context)
    elif decoding:
        state.n[a, PREFILL] = 0
        state.s[STALL] += params.swap_s * blocks_of(params, context)
    enter(state, params, a)


@compiled
def worst_slot(state: State, params: Parameters) -> int:
    """Return the slot that is preempted first; at least one request runs."""
    worst, least = 0, -np.inf
    for j in range(state.i[N_RUN]):
        own = key_of_slot(state, params.order, j)
        number = state.n[state.run_n[j], NUMBER]
        if own > least or (own == least and number > state.n[state.run_n[worst], NUMBER]):
            worst, least = j, own
    return worst


@compiled
def end_requests(state: State, params: Parameters, histograms: Histograms) -> None:
    """Finish the requests that have all their output, and requeue those that used their quota."""
    x = state.s[X]
    nearly = 1e-9 * (1.0 + x) if params.independent else 0.0
    if state.s[NEXT_END] > x + nearly:
        return
    j = 0
    while j < state.i[N_RUN]:
        if state.run_f[j, END] > x + nearly:
            j += 1
            continue
        a = state.run_n[j]
        _vacate(state, params, j)
        left = state.f[a, SIZE] - state.f[a, DONE]
        if left > max(nearly, 1e-9):
            # Requeued: the next quota doubles its work so far, and the slack doubles with it.
            state.f[a, QUOTA] = state.f[a, DONE]
            state.f[a, SLACK] *= 2
            context = state.n[a, PROMPT] + state.f[a, DONE]
            state.n[a, PREFILL] = int(params.resume_prefill * context)
            state.i[REDONE] += state.n[a, PREFILL]
            enter(state, params, a)
        else:
            _finish(state, params, histograms, a)
    state.s[NEXT_END] = np.inf
    for j in range(state.i[N_RUN]):
        state.s[NEXT_END] = min(state.s[NEXT_END], state.run_f[j, END])


@compiled
def _finish(state: State, params: Parameters, histograms: Histograms, a: int) -> None:
    correct_charge(state, params.order, a)
    count_ended(state, params, histograms, a)
    state.i[FINISHED] += 1
    if params.think_s >= 0:
        state.ring[state.i[RING_TAIL] % len(state.ring)] = state.s[NOW] + params.think_s
        state.i[RING_TAIL] += 1
    state.free[state.i[N_FREE]] = a
    state.i[N_FREE] += 1
