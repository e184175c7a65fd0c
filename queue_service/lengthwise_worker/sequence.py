"""Sequence scheduling: which answers run together in a static batch, how many, up to what length.

Pure. Called by the `transformers` engine, and by the lab, which runs this very code.

Source: Zheng et al., "Response length perception and sequence scheduling", arXiv 2305.13144, and
Zhang et al., "Optimizing LLM throughput with probabilistic length modeling", ICDE 2025. Unlike
them: the sizes follow from memory, prompts and the measured cost of a step instead of a table, and
an answer that meets its cap goes on later from what it has.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Answers that run together.

    `members`: their indices. `cap`: the most tokens that any of them may have by its end.
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
) -> list[Batch]:
    """The cheapest cut of the answers, sorted by length, into batches that fit into memory.

    By dynamic programming over the places where a batch may end: a batch costs its cap times the
    cost of one step at its size. No constants of one LLM or one GPU.

    Args:
        lengths: How long each may become, tokens, > 0.
        prompt_tokens: What stands before each, tokens.
        memory_tokens: Tokens of prompts and answers, padding included, that fit at once.
        step_cost: Of one step, by batch size, in any unit.
        batch_cost: Of beginning one more batch, in the same unit.
        largest: The most answers of a batch; None: as memory has it.

    Returns:
        The batches, shortest first.

    Raises:
        ValueError: One answer alone does not fit.
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
        found.append(Batch(members=tuple(order[begin:end]), cap=caps[end - 1]))
        end = begin
    return found[::-1]


class LengthRatios:
    """What answers turn out to be, as a multiple of their prediction: the caps follow from it.

    A predictor that is a third too low for this LLM, or more certain than it should be, gets the
    caps that it needs, once some answers have ended.

    Args:
        window: How many answers are remembered.
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
        """An answer has ended by itself, not at a cap; tokens, `predicted` > 0."""
        ratio = actual / predicted
        self._recent.append(ratio)
        bisect.insort(self._sorted, ratio)
        if self._prior:
            self._forget(self._prior.pop())
        elif len(self._recent) > self._window:
            self._forget(self._recent.popleft())

    def cap(self, predicted: float, *, has: int, quantile: float) -> int:
        """How long an answer may become, tokens, > `has`.

        Args:
            predicted: Its prediction, tokens, > 0.
            has: Tokens that it has already and did not end with.
            quantile: So many of the answers that get so far are to end by then, in (0, 1).
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
    """Seconds of one decoding step by batch size: a line through what was measured, old forgotten.

    Until two sizes were seen, a step of 16 answers is taken to cost twice a step of none.
    """

    _KEEP = 0.999  #: What a measurement is worth after one more.

    def __init__(self) -> None:
        self._weight = self._n = self._nn = self._t = self._nt = 0.0

    def learn(self, size: int, seconds: float) -> None:
        """One step of so many answers took so long, s."""
        self._weight = self._KEEP * self._weight + 1
        self._n = self._KEEP * self._n + size
        self._nn = self._KEEP * self._nn + size * size
        self._t = self._KEEP * self._t + seconds
        self._nt = self._KEEP * self._nt + size * seconds

    def __call__(self, size: int) -> float:
        """What a step of so many answers costs, s; grows with the size."""
        determinant = self._weight * self._nn - self._n**2
        if self._weight < 2 or determinant < 1e-9 * self._nn * self._weight:
            return 1.0 + size / 16
        slope = (self._weight * self._nt - self._n * self._t) / determinant
        mean_n, mean_t = self._n / self._weight, self._t / self._weight
        slope = min(max(slope, 0.0), mean_t / mean_n)
        return mean_t + slope * (size - mean_n)
