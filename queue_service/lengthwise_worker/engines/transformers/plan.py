"""Which requests of the `transformers` engine run together, by its batching mode.

Called by transformers_engine.py, on its thread; the arithmetic is in ../sequence.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lengthwise_worker.batching import BatchingMode
from lengthwise_worker.engines.transformers.call import Call
from lengthwise_worker.sequence import Batch, LengthRatios, StepCost, by_memory


@dataclass(kw_only=True)
class Plan:
    """How requests become batches.

    `mode`: none, static (as they come, to their end) or sequence. `largest`: answers of a batch,
    and in `sequence` of a group. `memory_tokens`: prompts and answers of a batch, padding included.
    `quantile`: of an answer's length; so far its first batch goes. `wait_s`: how long a group waits
    for more from its first request on.
    """

    mode: BatchingMode
    largest: int
    memory_tokens: int
    quantile: float = 0.7
    wait_s: float = 0.05
    ratios: LengthRatios = field(default_factory=LengthRatios)
    step_cost: StepCost = field(default_factory=StepCost)

    def batches(self, calls: Sequence[Call]) -> list[Batch]:
        """A group cut into batches; their caps count from what each answer has already."""
        has = [len(call.generation.tokens) for call in calls]
        contents = [len(call.generation.prompt) + own for call, own in zip(calls, has, strict=True)]
        limits = [call.generation.limit - own for call, own in zip(calls, has, strict=True)]
        if self.mode is not BatchingMode.SEQUENCE:
            return self._in_order(contents, limits)
        caps = [
            min(limit, self.ratios.cap(call.predicted, has=own, quantile=self.quantile) - own)
            for call, own, limit in zip(calls, has, limits, strict=True)
        ]
        return by_memory(caps, contents, memory_tokens=self.memory_tokens, step_cost=self.step_cost)

    def learn(self, call: Call) -> None:
        """An answer has ended by itself."""
        actual = max(1, len(call.generation.tokens))
        self.ratios.learn(predicted=call.predicted, actual=actual)

    def _in_order(self, prompts: list[int], limits: list[int]) -> list[Batch]:
        """As they come, each batch as large as the memory has it if all go to their limit."""
        found: list[Batch] = []
        members: list[int] = []
        prompt = limit = 0
        for at in range(len(prompts)):
            wider, longer = max(prompt, prompts[at]), max(limit, limits[at])
            fits = (len(members) + 1) * (wider + longer) <= self.memory_tokens
            if members and (not fits or len(members) >= self.largest):
                found.append(Batch(members=tuple(members), cap=limit))
                members, wider, longer = [], prompts[at], limits[at]
            members.append(at)
            prompt, limit = wider, longer
        if members:
            found.append(Batch(members=tuple(members), cap=limit))
        return found
