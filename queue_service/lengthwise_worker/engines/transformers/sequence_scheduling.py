"""Sequence scheduling: cut answers into static batches by predicted length. Pure.

Called by batch_planner.py, and by the lab, so that it measures the same code.

Source: Zheng et al., "Response length perception and sequence scheduling", arXiv 2305.13144, and
Zhang et al., "Optimizing LLM throughput with probabilistic length modeling", ICDE 2025. Unlike
them: the sizes follow from memory, prompts and the measured cost of a step instead of a table, and
an answer that reaches its cap continues in a later batch.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PlannedBatch:
    """Answers that run together.

    `members`: their indices. `cap`: the maximum number of tokens of each.
    """

    members: tuple[int, ...]
    cap: int


def by_memory(
    lengths: Sequence[float],
    prompt_tokens: Sequence[int],
    *,
    memory_tokens: int,
    step_cost: Callable[[int], float],
    batch_cost: float = 0.0,
    largest: int | None = None,
) -> list[PlannedBatch]:
    """Find the cheapest cut of the answers, sorted by length, into batches that fit into memory.

    Dynamic programming over the places where a batch may end: a batch costs its cap times the cost
    of one step at its size. There are no constants of one LLM or one GPU.

    Args:
        lengths: Maximum length of each answer, tokens, > 0.
        prompt_tokens: Length of each prompt, tokens.
        memory_tokens: Tokens of prompts and answers, padding included, that fit at once.
        step_cost: Cost of one step, by batch size, in any unit.
        batch_cost: Cost of starting one more batch, in the same unit.
        largest: Maximum number of answers of a batch; None: memory alone limits it.

    Returns:
        The batches, shortest first.

    Raises:
        ValueError: A single answer does not fit.
    """
    count = len(lengths)
    order = sorted(range(count), key=lambda at: lengths[at])
    caps = [math.ceil(lengths[at]) for at in order]
    prompts = [prompt_tokens[at] for at in order]
    costs = [step_cost(size) for size in range(1, min(count, largest or count) + 1)]
    best, begins = [0.0] * (count + 1), [0] * (count + 1)
    for end in range(1, count + 1):
        cap, longest, least = caps[end - 1], 0, math.inf
        for size in range(1, min(end, len(costs)) + 1):
            longest = max(longest, prompts[end - size])
            if size * (longest + cap) > memory_tokens:
                break
            cost = best[end - size] + cap * costs[size - 1] + batch_cost
            if cost < least:
                least, begins[end] = cost, end - size
        if least == math.inf:
            raise ValueError(
                f"an answer of {cap} tokens after a prompt of {longest} does not fit into "
                f"{memory_tokens} tokens"
            )
        best[end] = least
    found, end = [], count
    while end:
        begin = begins[end]
        found.append(PlannedBatch(members=tuple(order[begin:end]), cap=caps[end - 1]))
        end = begin
    return found[::-1]


class LengthRatios:
    """The distribution of actual over predicted length, from which the caps follow.

    It corrects a predictor that is too low for this LLM, or too certain, once some answers have
    ended.

    Args:
        window: How many answers are kept.
    """

    #: Before answers have ended: log-normal around the prediction, this wide, worth this many.
    _PRIOR_SPREAD, _PRIOR_COUNT = 0.6, 20

    def __init__(self, window: int = 500) -> None:
        self._recent: deque[float] = deque()
        self._window = window
        places = [(at + 0.5) / self._PRIOR_COUNT for at in range(self._PRIOR_COUNT)]
        # The logistic quantile function with the same standard deviation.
        scale = self._PRIOR_SPREAD * math.sqrt(3) / math.pi
        self._sorted = sorted(math.exp(scale * math.log(p / (1 - p))) for p in places)
        self._prior = list(self._sorted)

    def learn(self, *, predicted: float, actual: int) -> None:
        """Add an answer that ended before its cap. Tokens; `predicted` > 0."""
        ratio = actual / predicted
        self._recent.append(ratio)
        bisect.insort(self._sorted, ratio)
        if self._prior:
            self._forget(self._prior.pop())
        elif len(self._recent) > self._window:
            self._forget(self._recent.popleft())

    def cap(self, predicted: float, *, has: int, quantile: float) -> int:
        """Return the cap of an answer's next batch, tokens, > `has`.

        Args:
            predicted: Its predicted length, tokens, > 0.
            has: Tokens that it has from earlier batches.
            quantile: Share of the answers of this length that should end by the cap, in (0, 1).
        """
        begin = bisect.bisect_right(self._sorted, has / predicted)
        beyond = len(self._sorted) - begin
        if beyond < 1:
            return max(2 * has, 1)
        at = min(begin + math.ceil(quantile * beyond) - 1, len(self._sorted) - 1)
        return max(math.ceil(predicted * self._sorted[at]), has + 1)

    def _forget(self, ratio: float) -> None:
        del self._sorted[bisect.bisect_left(self._sorted, ratio)]


class StepCost:
    """Seconds of one decoding step by batch size: a line fitted to the recent measurements.

    Before two sizes are measured, a step of 16 answers counts as twice a step of none.
    """

    _KEEP = 0.999  #: Each measurement multiplies the weight of the earlier ones by this.

    def __init__(self) -> None:
        self._weight = self._n = self._nn = self._t = self._nt = 0.0

    def learn(self, size: int, seconds: float) -> None:
        """Add a measured step: `size` answers, seconds."""
        self._weight = self._KEEP * self._weight + 1
        self._n = self._KEEP * self._n + size
        self._nn = self._KEEP * self._nn + size * size
        self._t = self._KEEP * self._t + seconds
        self._nt = self._KEEP * self._nt + size * seconds

    def __call__(self, size: int) -> float:
        """Estimate the cost of a step of `size` answers, s. It never falls with the size."""
        determinant = self._weight * self._nn - self._n**2
        if self._weight < 2 or determinant < 1e-9 * self._nn * self._weight:
            return 1.0 + size / 16
        slope = (self._weight * self._nt - self._n * self._t) / determinant
        mean_n, mean_t = self._n / self._weight, self._t / self._weight
        slope = min(max(slope, 0.0), mean_t / mean_n)
        return mean_t + slope * (size - mean_n)
