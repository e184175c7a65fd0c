"""The numbers of one simulation that do not change while it runs: engine, policy, limits."""

from __future__ import annotations

from typing import NamedTuple

from lengthwise_lab.simulator.core.orders import OrderParameters


class Parameters(NamedTuple):
    """The engine, the policy and the limits for compiled code; simulation.py fills it.

    Attributes:
        independent: 1: slots that do not share a batch, work in seconds; 0: steps of a batch.
        step_s, decode_s, prefill_s, context_s: A step takes step_s + decode_s for each sequence
            that decodes + prefill_s for each prompt token + context_s for each token of context.
        budget: Tokens of a step, decode and prefill together.
        block_size: Tokens of a KV block.
        limited: 1: KV blocks are counted.
        swap: 1: a preempted request keeps its KV for swap_s a block each way; 0: its KV is computed
            again.
        swap_s: The time to move one block, s.
        resume_prefill: The share of the context that is computed again for a requeued request.
        order: The policy's numbers.
        think_s: A client of a closed loop waits so long before its next request, s; < 0: no loop.
        stop_after, stop_at_s: End after so many finished requests, or at that time.
        warm_up: Requests numbered below this are not in the histograms.
    """

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
    resume_prefill: float = 0.0
    order: OrderParameters = OrderParameters()
    think_s: float = -1.0
    stop_after: int = 1 << 62
    stop_at_s: float = float("inf")
    warm_up: int = 0
