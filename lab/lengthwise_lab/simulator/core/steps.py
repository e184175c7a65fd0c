"""How the engine's time passes: many decode steps at once, up to the next thing that can happen.

A step of continuous batching takes `step_s + decode_s * n + prefill_s * p + context_s * c` for n
sequences that decode, p prompt tokens and c tokens of context. Between two events n stays and c
grows by n a step, so m steps have a closed form, and a request costs a few events, not its length.
"""

from __future__ import annotations

import math

from lengthwise_lab.simulator.core.compiled import compiled
from lengthwise_lab.simulator.core.priorities import PERCEIVED, work_done
from lengthwise_lab.simulator.core.rules import (
    GITTINS,
    LTR,
    MLFQ,
    PERCEPTION,
    REMAINING,
    VTC,
    Rules,
)
from lengthwise_lab.simulator.core.slots import decode, preempt, worst_slot
from lengthwise_lab.simulator.core.state import (
    BUSY,
    CONTEXT,
    COUNTER,
    DONE,
    FREE_BLOCKS,
    GAP,
    LAST_T,
    LEVEL,
    N_DECODE,
    N_PREFILL,
    N_RUN,
    NEXT_END,
    NEXT_PROMOTION,
    NOW,
    ORDER,
    PREFILL,
    PROC,
    PROMOTED,
    RUNS,
    STALL,
    START_T,
    TTFT,
    State,
    X,
)


@compiled
def seconds_of(state: State, rules: Rules, steps: float) -> float:
    """What so many decode steps take from here."""
    n = state.i[N_DECODE]
    per_step = rules.step_s + rules.decode_s * n
    context = steps * state.s[CONTEXT] + n * steps * (steps - 1) / 2
    return float(steps * per_step + rules.context_s * context)


@compiled
def steps_within(state: State, rules: Rules, seconds: float) -> float:
    """The fewest decode steps that take at least so long, >= 1."""
    n = state.i[N_DECODE]
    per_step = rules.step_s + rules.decode_s * n
    square = rules.context_s * n / 2
    linear = per_step + rules.context_s * state.s[CONTEXT] - square
    if square < 1e-18:
        steps = seconds / linear
    else:
        steps = (math.sqrt(linear * linear + 4 * square * seconds) - linear) / (2 * square)
    return float(max(1.0, math.ceil(steps - 1e-9)))


@compiled
def _steps_with_blocks(state: State, rules: Rules, steps: float) -> float:
    """How many of so many steps there are KV blocks for, and take those blocks."""
    size, n = rules.block_size, state.i[N_DECODE]
    if not rules.limited or n == 0:
        return steps
    full = min(int(steps) // size, state.i[FREE_BLOCKS] // n)
    state.i[FREE_BLOCKS] -= full * n
    given = full * size
    at = int(state.s[X]) + given
    while given < steps:
        need = state.phases[at % size]
        if need > state.i[FREE_BLOCKS]:
            break
        state.i[FREE_BLOCKS] -= need
        given += 1
        at += 1
    return float(given)


@compiled
def _until_order_changes(state: State, rules: Rules) -> float:
    """After how much more work the policy wants to look again at those who run."""
    kind = rules.kind
    if kind in (GITTINS, REMAINING):
        return rules.review
    soon = math.inf
    if kind == LTR:
        soon = max(1.0, state.s[NEXT_PROMOTION] - state.s[X])
    for j in range(state.i[N_RUN]):
        a = state.run_n[j]
        if kind == LTR and state.n[a, PROMOTED] > 0:
            soon = min(soon, float(max(1, state.n[a, RUNS])))
        elif kind == PERCEPTION:
            done = work_done(state, j)
            if done < PERCEIVED:
                soon = min(soon, PERCEIVED - done)
        elif kind == MLFQ:
            quantum = rules.quantum_s * rules.quantum_factor ** state.n[a, LEVEL]
            served = state.f[a, PROC] + state.s[NOW] - state.run_f[j, START_T]
            left = max(quantum - served, 0.0)
            soon = min(soon, left if rules.independent else steps_within(state, rules, left))
    if kind == MLFQ and rules.aging_s > 0:
        soon = min(soon, max(1.0, state.s[NEXT_PROMOTION] - state.s[X]))
    return soon


@compiled
def _after(state: State, rules: Rules, work: float) -> None:
    """Keep the books of policies that count what was served."""
    kind = rules.kind
    if kind == VTC:
        for tenant in range(len(state.roots)):
            served = rules.output_weight * work * state.tenant_n[tenant, 1]
            state.tenant_f[tenant, 0] += served / state.tenant_f[tenant, 1]
    elif kind == LTR:
        for j in range(state.i[N_RUN]):
            a = state.run_n[j]
            if state.n[a, PROMOTED] > 0:
                state.n[a, RUNS] -= int(work)
                if state.n[a, RUNS] <= 0:
                    state.n[a, PROMOTED] = 0
    elif kind == MLFQ:
        for j in range(state.i[N_RUN]):
            a = state.run_n[j]
            quantum = rules.quantum_s * rules.quantum_factor ** state.n[a, LEVEL]
            if state.f[a, PROC] + state.s[NOW] - state.run_f[j, START_T] >= quantum * (1 - 1e-9):
                state.n[a, LEVEL] += 1
                state.f[a, PROC] = 0.0
                state.run_f[j, START_T] = state.s[NOW]
                state.i[COUNTER] += 1
                state.f[a, ORDER] = -state.i[COUNTER]  # to the front of its queue, as published


@compiled
def _pass_time(state: State, rules: Rules, work: float, seconds: float) -> None:
    """All that decode are given `work`, which takes so long."""
    state.s[X] += work
    state.s[NOW] += seconds + state.s[STALL]
    state.s[BUSY] += seconds + state.s[STALL]
    state.s[STALL] = 0.0
    if not rules.independent:
        state.s[CONTEXT] += work * state.i[N_DECODE]


@compiled
def pass_work(state: State, rules: Rules, until_s: float) -> None:
    """Let those who run work until the next event, at `until_s` at the latest (a step more).

    Args:
        state: Somebody runs, and nobody is done.
        rules: The engine and the policy.
        until_s: When something happens from outside, s; infinite: nothing will.
    """
    if rules.independent:
        work = min(state.s[NEXT_END] - state.s[X], _until_order_changes(state, rules))
        work = min(work, until_s - state.s[NOW])
        _pass_time(state, rules, work, work)
        _after(state, rules, work)
        return
    prefilling = state.i[N_PREFILL] > 0
    while True:
        wanted = 1.0
        if not prefilling:
            wanted = min(state.s[NEXT_END] - state.s[X], _until_order_changes(state, rules))
            if until_s < math.inf:
                wanted = min(wanted, steps_within(state, rules, until_s - state.s[NOW]))
        steps = _steps_with_blocks(state, rules, max(1.0, math.floor(wanted)))
        if steps > 0:
            break
        preempt(state, rules, worst_slot(state, rules))
        prefilling = state.i[N_PREFILL] > 0
        if state.i[N_RUN] == 0:
            return
    seconds = seconds_of(state, rules, steps)
    if prefilling:
        _prefill(state, rules, seconds)
    else:
        _pass_time(state, rules, steps, seconds)
    _after(state, rules, steps)


@compiled
def _prefill(state: State, rules: Rules, seconds: float) -> None:
    """One step that computes prompts, in their order, as far as the budget goes."""
    room = max(1, rules.budget - state.i[N_DECODE])
    computed = 0
    for at in range(state.i[N_PREFILL]):
        a = state.prefill[at]
        part = min(room - computed, state.n[a, PREFILL])
        state.n[a, PREFILL] -= part
        computed += part
        if computed >= room:
            break
    if state.i[N_DECODE] == 0:
        seconds = rules.step_s
    _pass_time(state, rules, 1.0, seconds + rules.prefill_s * computed)
    ready = 0
    while ready < state.i[N_PREFILL] and state.n[state.prefill[ready], PREFILL] == 0:
        ready += 1
    if ready == 0:
        return
    # The last part of a prompt gives its first token.
    f = state.f
    for at in range(ready):
        a = state.prefill[at]
        if f[a, DONE] > 0:
            f[a, GAP] = max(f[a, GAP], state.s[NOW] - f[a, LAST_T])
        else:
            f[a, TTFT] = state.s[NOW]
        f[a, DONE] += 1
        for j in range(state.i[N_RUN]):
            if state.run_n[j] == a:
                decode(state, rules, j)
                break
    state.i[N_PREFILL] -= ready
    for at in range(state.i[N_PREFILL]):
        state.prefill[at] = state.prefill[at + ready]
