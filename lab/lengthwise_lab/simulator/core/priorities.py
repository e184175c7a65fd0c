"""Who goes before whom: one number for each request, the smallest first."""

from __future__ import annotations

import numpy as np

from lengthwise_lab.simulator.core.compiled import compiled
from lengthwise_lab.simulator.core.rules import (
    GITTINS,
    HRRN,
    INSERTION,
    LTR,
    MLFQ,
    PERCEPTION,
    PREDICTED_SRPT,
    REMAINING,
    SRPT,
    SSJF_AGING,
    Rules,
)
from lengthwise_lab.simulator.core.state import (
    ARRIVAL,
    DONE,
    FIRST,
    LEVEL,
    NUMBER,
    ORDER,
    PRED,
    PROMOTED,
    SIZE,
    SLACK,
    START_X,
    State,
    X,
)

#: Larger than any key: what is in front by right is in front by this much.
FRONT = 1e9
#: How far apart the queues of MLFQ lie, more than it ever gives out places in one of them.
LEVELS = 1e12
#: PO asks the LLM itself: the answer is known after so many tokens (LTR's benchmark).
PERCEIVED = 15.0


@compiled
def look_up(rules: Rules, ratio: float) -> float:
    """The policy's function at an age of `ratio` predicted lengths; level beyond the table."""
    at = ratio / rules.table_step
    last = len(rules.table) - 1
    if at >= last:
        return float(rules.table[last])
    below = int(at)
    return float(rules.table[below] + (at - below) * (rules.table[below + 1] - rules.table[below]))


@compiled
def key(state: State, rules: Rules, a: int, done: float) -> float:
    """Where request `a` stands when it has been given so much work."""
    f = state.f
    kind = rules.kind
    if kind == SRPT:
        return float(f[a, SIZE] - done)
    if kind == PREDICTED_SRPT:
        return float(max(f[a, PRED] - done, 0.0))
    if kind in (GITTINS, REMAINING):
        return float(f[a, PRED] * look_up(rules, done / f[a, PRED]))
    if kind == MLFQ:
        return float(state.n[a, LEVEL] * LEVELS + f[a, ORDER])
    if kind == PERCEPTION:
        return float(f[a, SLACK]) if done >= PERCEIVED else float(f[a, ARRIVAL] - FRONT)
    own = float(f[a, SLACK] + rules.age_weight * f[a, ARRIVAL])
    if kind == LTR and state.n[a, PROMOTED] > 0:
        own -= FRONT
    return own


@compiled
def work_done(state: State, j: int) -> float:
    """What the request in slot `j` has been given; the prompt does not count."""
    a = state.run_n[j]
    if state.run_f[j, START_X] < 0:
        return float(state.f[a, DONE])
    return float(state.f[a, DONE] + state.s[X] - state.run_f[j, START_X])


@compiled
def key_of_slot(state: State, rules: Rules, j: int) -> float:
    """Where the request that runs in slot `j` stands, if it had to give way."""
    a = state.run_n[j]
    if rules.kind in (HRRN, SSJF_AGING, INSERTION):
        return float(state.f[a, FIRST])  # only when KV blocks run out: who came in last gives way
    done = work_done(state, j)
    if rules.kind == REMAINING and done >= rules.limit * state.f[a, PRED]:
        return -FRONT
    return key(state, rules, a, done)


@compiled
def shorter(state: State, rules: Rules, a: int, b: int) -> bool:
    """What a comparison of two requests says; it is right with `pair_accuracy`, and says it again.

    The same two get the same answer each time, as a model would give it: chance comes from their
    numbers (the finaliser of splitmix64).
    """
    truth = state.f[a, SIZE] < state.f[b, SIZE]
    low = np.uint64(min(state.n[a, NUMBER], state.n[b, NUMBER]))
    high = np.uint64(max(state.n[a, NUMBER], state.n[b, NUMBER]))
    z = low * np.uint64(0x9E3779B97F4A7C15) + high * np.uint64(0xC2B2AE3D27D4EB4F)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    chance = float(z >> np.uint64(11)) / 9007199254740992.0
    return bool(truth if chance < rules.pair_accuracy else not truth)
