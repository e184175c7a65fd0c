"""Decide which requests of the `transformers` engine run together, by its batching mode.

Called by engine.py, on its thread. The arithmetic is in sequence_scheduling.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lengthwise_worker.batching import BatchingMode
from lengthwise_worker.engines.transformers.pending_request import PendingRequest
from lengthwise_worker.engines.transformers.sequence_scheduling import (
    LengthRatios,
    PlannedBatch,
    StepCost,
    by_memory,
)


@dataclass(kw_only=True)
class BatchPlanner:
    """Cuts groups of requests into batches.

    `mode`: none, static (in order of arrival, to their end) or sequence. `largest`: answers of a
    batch, and in `sequence` of a group. `memory_tokens`: prompts and answers of a batch, padding
    included. `quantile`: the quantile of an answer's length at which its first batch stops.
    `wait_s`: how long a group waits for more requests, counted from its first.
    """

    mode: BatchingMode
    largest: int
    memory_tokens: int
    quantile: float = 0.7
    wait_s: float = 0.05
    ratios: LengthRatios = field(default_factory=LengthRatios)
    step_cost: StepCost = field(default_factory=StepCost)

    def batches(self, requests: Sequence[PendingRequest]) -> list[PlannedBatch]:
        """Cut a group into batches. A cap does not count the tokens of earlier batches."""
        has = [len(request.generation.tokens) for request in requests]
        contents = [
            len(request.generation.prompt) + own for request, own in zip(requests, has, strict=True)
        ]
        limits = [
            request.generation.limit - own for request, own in zip(requests, has, strict=True)
        ]
        if self.mode is not BatchingMode.SEQUENCE:
            return self._in_order(contents, limits)
        caps = [
            min(limit, self.ratios.cap(request.predicted, has=own, quantile=self.quantile) - own)
            for request, own, limit in zip(requests, has, limits, strict=True)
        ]
        return by_memory(caps, contents, memory_tokens=self.memory_tokens, step_cost=self.step_cost)

    def learn(self, request: PendingRequest) -> None:
        """Learn the length of an answer that ended before its limit."""
        actual = max(1, len(request.generation.tokens))
        self.ratios.learn(predicted=request.predicted, actual=actual)

    def _in_order(self, prompts: list[int], limits: list[int]) -> list[PlannedBatch]:
        """Cut in order of arrival. A batch fits into memory even if all go to their limit."""
        found: list[PlannedBatch] = []
        members: list[int] = []
        prompt = limit = 0
        for at in range(len(prompts)):
            wider, longer = max(prompt, prompts[at]), max(limit, limits[at])
            fits = (len(members) + 1) * (wider + longer) <= self.memory_tokens
            if members and (not fits or len(members) >= self.largest):
                found.append(PlannedBatch(members=tuple(members), cap=limit))
                members, wider, longer = [], prompts[at], limits[at]
            members.append(at)
            prompt, limit = wider, longer
        if members:
            found.append(PlannedBatch(members=tuple(members), cap=limit))
        return found
