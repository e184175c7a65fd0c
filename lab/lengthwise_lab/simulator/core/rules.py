"""The numbers that a simulation runs by and that do not change: the engine's, and the policy's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lengthwise_lab.simulator.core.state import Floats

# How the line is ordered. The first seven keep a heap; policies.py says what each is for.
STATIC, SRPT, PREDICTED_SRPT, GITTINS, REMAINING, LTR, PERCEPTION, MLFQ = range(8)
# These two look at the whole line at each dispatch, because waiting changes their order.
HRRN, SSJF_AGING = 8, 9
# The line itself is kept in order, by asking which of two is shorter.
INSERTION = 10
# Tenants: the one with the smallest counter is next, and of its requests the first of its heap.
VTC, FAIR = 11, 12


class Rules(NamedTuple):
    """What compiled code knows of an engine and of a policy; experiment.py fills it in.

    Attributes:
        kind: One of the orders above.
        preemptive: 1: a better request takes a running one's slot.
        age_weight: 1: the key is slack + arrival, so waiting counts; 0: the slack alone.
        wait_factor: STATIC: how many times the wait that it finds a long request may be overtaken
            for (the product's `overtake_wait_factor`, less what the predictions do not deserve).
        usual: With `wait_factor`: the mean predicted work.
        independent: 1: slots that know nothing of each other, work in seconds; 0: steps of a batch.
        step_s, decode_s, prefill_s, context_s: A step takes step_s + decode_s for each sequence
            that decodes + prefill_s for each prompt token + context_s for each token of context.
        budget: Tokens of a step, decode and prefill together.
        block_size: Tokens of a KV block.
        limited: 1: KV blocks are counted.
        swap: 1: who is preempted keeps its KV for swap_s a block each way; 0: it is computed again.
        swap_s: Moving one block, s.
        promote_after, promote_for: LTR: idle steps, and steps at the front.
        quantum_s, quantum_factor: MLFQ: time in the first queue, and how it grows from queue to
            queue.
        aging_s: SSJF, MLFQ: waiting that is too long, s; 0: no aging.
        aging_times: SSJF: waiting that is too long, times its own length.
        aging_true: 1: SSJF: its true length, as published; 0: the predicted one.
        limit: REMAINING: the share of the predicted length after which nobody is preempted.
        review: After how much work running requests are looked at again, where keys change.
        think_s: A closed loop's client waits so long before it sends again, s; < 0: no loop.
        pair_accuracy: INSERTION: how often a comparison is right.
        resume_prefill: The share of the context computed again for one that was handed back.
        prompt_weight, output_weight: VTC: what a token costs its tenant.
        stop_after, stop_at_s: End when so many have finished, or at that time.
        warm_up: Requests numbered below this are not in the tallies.
        table_step: Of `table`'s first axis, in predicted lengths.
        table: (ages, ): a policy's function of age / predicted length.
    """

    kind: int = STATIC
    preemptive: int = 0
    age_weight: float = 1.0
    wait_factor: float = 0.0
    usual: float = 0.0
    independent: int = 0
    step_s: float = 0.02
    decode_s: float = 0.0
    prefill_s: float = 0.0
    context_s: float = 0.0
    budget: int = 2048
    block_size: int = 16
    limited: int = 0
    swap: int = 0
    swap_s: float = 0.0
    promote_after: float = 0.0
    promote_for: int = 0
    quantum_s: float = 0.01
    quantum_factor: float = 2.0
    aging_s: float = 0.0
    aging_times: float = 10.0
    aging_true: int = 1
    limit: float = 0.8
    review: float = 16.0
    think_s: float = -1.0
    pair_accuracy: float = 1.0
    resume_prefill: float = 0.0
    prompt_weight: float = 1.0
    output_weight: float = 2.0
    stop_after: int = 1 << 62
    stop_at_s: float = float("inf")
    warm_up: int = 0
    table_step: float = 0.01
    table: Floats = np.ones(2)
