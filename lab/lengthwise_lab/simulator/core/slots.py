"""The engine's slots: who gets in, who has to give way, who is done."""

from __future__ import annotations

import numpy as np

from lengthwise_lab.simulator.core.compiled import compiled
from lengthwise_lab.simulator.core.line import enter, leave
from lengthwise_lab.simulator.core.priorities import key_of_slot, work_done
from lengthwise_lab.simulator.core.rules import FAIR, MLFQ, VTC, Rules
from lengthwise_lab.simulator.core.state import (
    ARRIVAL,
    CHUNK,
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
    N_WAIT,
    NEWEST_STARTED,
    NEXT_END,
    NOW,
    NUMBER,
    OVERTAKEN,
    PRED,
    PREEMPTIONS,
    PREFILL,
    PROC,
    PROMPT,
    REDONE,
    RING_TAIL,
    SIZE,
    SLACK,
    STALL,
    START_T,
    START_X,
    TENANT,
    TTFT,
    VIRTUAL,
    State,
    X,
)
from lengthwise_lab.simulator.core.tally import Tally, count_ended


@compiled
def blocks_of(rules: Rules, tokens: float) -> int:
    """KV blocks that so many tokens need."""
    return int((int(tokens) + rules.block_size - 1) // rules.block_size)


@compiled
def fits(state: State, rules: Rules, a: int) -> bool:
    """Whether there are blocks for the context of `a` and one token more."""
    if not rules.limited:
        return True
    need = blocks_of(rules, state.n[a, PROMPT] + state.f[a, DONE] + 1)
    return bool(need <= state.i[FREE_BLOCKS])


@compiled
def admit(state: State, rules: Rules, a: int) -> None:
    """Give `a`, which is first in the line, a slot."""
    f, n, now = state.f, state.n, state.s[NOW]
    _charge(state, rules, a)
    leave(state, rules, a)
    tenant = n[a, TENANT]
    if rules.kind in (VTC, FAIR) and state.i[N_WAIT] == 0:
        state.s[VIRTUAL] = max(state.s[VIRTUAL], state.tenant_f[tenant, 0])
    if f[a, FIRST] < 0:
        f[a, FIRST] = now
        f[a, OVERTAKEN] = max(0.0, state.s[NEWEST_STARTED] - f[a, ARRIVAL])
        state.s[NEWEST_STARTED] = max(state.s[NEWEST_STARTED], f[a, ARRIVAL])
    j = state.i[N_RUN]
    state.i[N_RUN] = j + 1
    state.run_n[j] = a
    state.run_f[j, START_T] = now
    if rules.limited:
        # Computing the prompt gives a token; one whose KV is there goes on where it was.
        first_token = 1 if n[a, PREFILL] > 0 else 0
        state.i[FREE_BLOCKS] -= blocks_of(rules, n[a, PROMPT] + f[a, DONE] + first_token)
    if rules.independent or n[a, PREFILL] == 0:
        if f[a, DONE] > 0:
            f[a, GAP] = max(f[a, GAP], now - f[a, LAST_T])
            if rules.swap:
                state.s[STALL] += rules.swap_s * blocks_of(rules, n[a, PROMPT] + f[a, DONE])
        elif rules.independent:
            f[a, TTFT] = now
        decode(state, rules, j)
    else:
        state.run_f[j, START_X] = -1.0
        state.run_f[j, END] = np.inf
        state.prefill[state.i[N_PREFILL]] = a
        state.i[N_PREFILL] += 1


@compiled
def _charge(state: State, rules: Rules, a: int) -> None:
    """What being served costs the tenant of `a` now, as queue_service's claim.lua counts it."""
    if state.f[a, DONE] > 0:
        return  # it was charged when it was first served
    tenant = state.n[a, TENANT]
    own = state.tenant_f[tenant]
    if rules.kind == VTC:
        own[0] += rules.prompt_weight * state.n[a, PROMPT] / own[1]
    elif rules.kind == FAIR:
        waiting = state.tenant_n[tenant, 0]
        state.f[a, PROC] = 0.0
        if waiting < state.i[N_WAIT]:  # a tenant that waits alone is not charged
            state.s[VIRTUAL] = own[0]
            own[0] += state.f[a, PRED] / own[1]
            state.f[a, PROC] = state.f[a, PRED]


@compiled
def decode(state: State, rules: Rules, j: int) -> None:
    """The request in slot `j` has its prompt computed: from now on a token each step."""
    a = state.run_n[j]
    f, x = state.f, state.s[X]
    state.run_f[j, START_X] = x
    end = x + min(f[a, SIZE] - f[a, DONE], f[a, CHUNK])
    state.run_f[j, END] = end
    state.s[NEXT_END] = min(state.s[NEXT_END], end)
    state.i[N_DECODE] += 1
    state.tenant_n[state.n[a, TENANT], 1] += 1
    if not rules.independent:
        context = state.n[a, PROMPT] + f[a, DONE]
        state.s[CONTEXT] += context
        state.phases[int(x - context) % rules.block_size] += 1


@compiled
def _vacate(state: State, rules: Rules, j: int) -> None:
    """Take the request in slot `j` out of the engine; what it has done is kept with it."""
    a = state.run_n[j]
    f, n, x = state.f, state.n, state.s[X]
    done = work_done(state, j)
    if state.run_f[j, START_X] < 0:
        if rules.limited:
            state.i[FREE_BLOCKS] += blocks_of(rules, n[a, PROMPT] + done + 1)
        at = 0
        while state.prefill[at] != a:
            at += 1
        state.i[N_PREFILL] -= 1
        for later in range(at, state.i[N_PREFILL]):
            state.prefill[later] = state.prefill[later + 1]
    else:
        state.i[N_DECODE] -= 1
        state.tenant_n[n[a, TENANT], 1] -= 1
        if not rules.independent:
            context = n[a, PROMPT] + done
            state.s[CONTEXT] -= context
            state.phases[int(x - context) % rules.block_size] -= 1
            if rules.limited:
                state.i[FREE_BLOCKS] += blocks_of(rules, context)
    f[a, DONE] = done
    f[a, LAST_X] = x
    f[a, LAST_T] = state.s[NOW]
    last = state.i[N_RUN] - 1
    state.i[N_RUN] = last
    state.run_n[j] = state.run_n[last]
    for column in range(3):
        state.run_f[j, column] = state.run_f[last, column]


@compiled
def preempt(state: State, rules: Rules, j: int) -> None:
    """Put the request in slot `j` back into the line; its KV is swapped out, or lost."""
    a = state.run_n[j]
    decoding = state.run_f[j, START_X] >= 0
    if rules.kind == MLFQ:
        state.f[a, PROC] += state.s[NOW] - state.run_f[j, START_T]
    _vacate(state, rules, j)
    state.i[PREEMPTIONS] += 1
    context = state.n[a, PROMPT] + int(state.f[a, DONE])
    if rules.independent:
        state.n[a, PREFILL] = 0
    elif not rules.swap:
        state.i[REDONE] += context if decoding else 0
        state.n[a, PREFILL] = max(1, context)
    elif decoding:
        state.n[a, PREFILL] = 0
        state.s[STALL] += rules.swap_s * blocks_of(rules, context)
    enter(state, rules, a)


@compiled
def worst_slot(state: State, rules: Rules) -> int:
    """Who gives way first; there is somebody."""
    worst, least = 0, -np.inf
    for j in range(state.i[N_RUN]):
        own = key_of_slot(state, rules, j)
        number = state.n[state.run_n[j], NUMBER]
        if own > least or (own == least and number > state.n[state.run_n[worst], NUMBER]):
            worst, least = j, own
    return worst


@compiled
def end_requests(state: State, rules: Rules, tally: Tally) -> None:
    """Take out who has all its output, and hand back who has had its chunk."""
    x = state.s[X]
    nearly = 1e-9 * (1.0 + x) if rules.independent else 0.0
    if state.s[NEXT_END] > x + nearly:
        return
    j = 0
    while j < state.i[N_RUN]:
        if state.run_f[j, END] > x + nearly:
            j += 1
            continue
        a = state.run_n[j]
        _vacate(state, rules, j)
        left = state.f[a, SIZE] - state.f[a, DONE]
        if left > max(nearly, 1e-9):
            # Handed back: its next chunk doubles what it has had, and its place follows.
            state.f[a, CHUNK] = state.f[a, DONE]
            state.f[a, SLACK] *= 2
            context = state.n[a, PROMPT] + state.f[a, DONE]
            state.n[a, PREFILL] = int(rules.resume_prefill * context)
            state.i[REDONE] += state.n[a, PREFILL]
            enter(state, rules, a)
        else:
            _finish(state, rules, tally, a)
    state.s[NEXT_END] = np.inf
    for j in range(state.i[N_RUN]):
        state.s[NEXT_END] = min(state.s[NEXT_END], state.run_f[j, END])


@compiled
def _finish(state: State, rules: Rules, tally: Tally, a: int) -> None:
    if rules.kind == FAIR and state.f[a, PROC] > 0:
        own = state.tenant_f[state.n[a, TENANT]]
        own[0] += (state.f[a, SIZE] - state.f[a, PROC]) / own[1]
    count_ended(state, rules, tally, a)
    state.i[FINISHED] += 1
    if rules.think_s >= 0:
        state.ring[state.i[RING_TAIL] % len(state.ring)] = state.s[NOW] + rules.think_s
        state.i[RING_TAIL] += 1
    state.free[state.i[N_FREE]] = a
    state.i[N_FREE] += 1
