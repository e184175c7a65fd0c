"""Advance the simulated time: many decode steps at once, up to the next event.

A step of continuous batching takes `step_s + decode_s * n + prefill_s * p + context_s * c` for n
sequences that decode, p prompt tokens and c tokens of context. Between two events n is constant
and c grows by n a step, so m steps have a closed form. A request of any
length costs a few events.
"""

from __future__ import annotations

import math

from lengthwise_lab.simulator.core.compiled import compiled
from lengthwise_lab.simulator.core.orders import after_work, until_order_changes
from lengthwise_lab.simulator.core.parameters import Parameters
from lengthwise_lab.simulator.core.slots import decode, preempt, worst_slot
from lengthwise_lab.simulator.core.state import (
    BUSY,
    CONTEXT,
    DONE,
    FREE_BLOCKS,
    GAP,
    LAST_T,
    N_DECODE,
    N_PREFILL,
    N_RUN,
    NEXT_END,
    NOW,
    PREFILL,
    STALL,
    TTFT,
    State,
    X,
)
from lengthwise_lab.simulator.core.tenants import charge_work


@compiled
def seconds_of(state: State, params: Parameters, steps: float) -> float:
    """Return how long the next `steps` decode steps take, s."""
    n = state.i[N_DECODE]
    per_step = params.step_s + params.decode_s * n
    context = steps * state.s[CONTEXT] + n * steps * (steps - 1) / 2
    return float(steps * per_step + params.context_s * context)


@compiled
def steps_within(state: State, params: Parameters, seconds: float) -> float:
    """Return the fewest decode steps that take at least so many seconds, >= 1."""
    n = state.i[N_DECODE]
    per_step = params.step_s + params.decode_s * n
    square = params.context_s * n / 2
    linear = per_step + params.context_s * state.s[CONTEXT] - square
    if square < 1e-18:
        steps = seconds / linear
    else:
        steps = (math.sqrt(linear * linear + 4 * square * seconds) - linear) / (2 * square)
    return float(max(1.0, math.ceil(steps - 1e-9)))


@compiled
def _steps_with_blocks(state: State, params: Parameters, steps: float) -> float:
    """Take the KV blocks for up to `steps` steps; return how many steps there were blocks for."""
    size, n = params.block_size, state.i[N_DECODE]
    if not params.limited or n == 0:
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
def _until_review(state: State, params: Parameters) -> float:
    """Return after how much more work the policy must look at the running requests again."""
    work, seconds = until_order_changes(state, params.order)
    if seconds < math.inf:
        work = min(work, seconds if params.independent else steps_within(state, params, seconds))
    return work


@compiled
def _count_work(state: State, params: Parameters, work: float) -> None:
    """Count the work that was done, for the policies whose order depends on it."""
    charge_work(state, params.order, work)
    after_work(state, params.order, work)


@compiled
def _pass_time(state: State, params: Parameters, work: float, seconds: float) -> None:
    """Give every decoding request `work`, which takes so many seconds."""
    state.s[X] += work
    state.s[NOW] += seconds + state.s[STALL]
    state.s[BUSY] += seconds + state.s[STALL]
    state.s[STALL] = 0.0
    if not params.independent:
        state.s[CONTEXT] += work * state.i[N_DECODE]


@compiled
def pass_work(state: State, params: Parameters, until_s: float) -> None:
    """Let the running requests work until the next event, or until the first step after `until_s`.

    Args:
        state: At least one request runs, and none has ended.
        params: The engine and the policy.
        until_s: When the next event comes from outside, s; infinite: none will.
    """
    if params.independent:
        work = min(state.s[NEXT_END] - state.s[X], _until_review(state, params))
        work = min(work, until_s - state.s[NOW])
        _pass_time(state, params, work, work)
        _count_work(state, params, work)
        return
    prefilling = state.i[N_PREFILL] > 0
    while True:
        wanted = 1.0
        if not prefilling:
            wanted = min(state.s[NEXT_END] - state.s[X], _until_review(state, params))
            if until_s < math.inf:
                wanted = min(wanted, steps_within(state, params, until_s - state.s[NOW]))
        steps = _steps_with_blocks(state, params, max(1.0, math.floor(wanted)))
        if steps > 0:
            break
        preempt(state, params, worst_slot(state, params))
        prefilling = state.i[N_PREFILL] > 0
        if state.i[N_RUN] == 0:
            return
    seconds = seconds_of(state, params, steps)
    if prefilling:
        _prefill(state, params, seconds)
    else:
        _pass_time(state, params, steps, seconds)
    _count_work(state, params, steps)


@compiled
def _prefill(state: State, params: Parameters, seconds: float) -> None:
    """Pass one step that computes prompts, in their order, up to the token budget."""
    room = max(1, params.budget - state.i[N_DECODE])
    computed = 0
    for at in range(state.i[N_PREFILL]):
        a = state.prefill[at]
        part = min(room - computed, state.n[a, PREFILL])
        state.n[a, PREFILL] -= part
        computed += part
        if computed >= room:
            break
    if state.i[N_DECODE] == 0:
        seconds = params.step_s
    _pass_time(state, params, 1.0, seconds + params.prefill_s * computed)
    ready = 0
    while ready < state.i[N_PREFILL] and state.n[state.prefill[ready], PREFILL] == 0:
        ready += 1
    if ready == 0:
        return
    # The step that completes a prompt makes its first token.
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
                decode(state, params, j)
                break
    state.i[N_PREFILL] -= ready
    for at in range(state.i[N_PREFILL]):
        state.prefill[at] = state.prefill[at + ready]
