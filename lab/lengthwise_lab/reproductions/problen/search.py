"""Batch sizes from distributions: a quantile as the length, and the search for the quantile.

The publication's rules, and the same with their defects fixed. Called by rows.py.

Source: Zhang et al., "Optimizing LLM throughput with probabilistic length modeling and dynamic
scheduling", ICDE 2025; semantics of its published code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lengthwise_lab.reproductions.recorded_lengths import Ints
from lengthwise_worker.engines.transformers.sequence_scheduling import PlannedBatch

#: Probabilities of total lengths, (rows, longest + 1); each row sums to 1.
Distributions = NDArray[np.float64]

#: The thresholds that the search tries.
THRESHOLDS = tuple(percent / 100 for percent in range(10, 100))

#: Width of the kernel over the sampled lengths, tokens.
SIGMA = 32.0


def smoothed(counts: Distributions, sigma: float = SIGMA, *, keep_mass: bool) -> Distributions:
    """Smooth sampled lengths by a normal kernel, as the target of the model.

    Args:
        counts: (rows, lengths), each row sums to 1.
        sigma: Width of the kernel, tokens.
        keep_mass: Whether a row still sums to 1. As published it does not: the mass that the kernel
            moves beyond an end is lost, 43 % of it for an answer of 5 tokens.

    Returns:
        (rows, lengths).
    """
    lengths = np.arange(counts.shape[1])
    kernel = np.exp(-0.5 * ((lengths[:, None] - lengths[None, :]) / sigma) ** 2)  # (from, to)
    if keep_mass:
        kernel /= kernel.sum(axis=1, keepdims=True)
    else:
        kernel /= sigma * np.sqrt(2 * np.pi)
    found: Distributions = counts @ kernel
    return found


def quantiles(distributions: Distributions, threshold: float, prompt_tokens: Ints) -> Ints:
    """Return, as published, the least total length with so much mass that exceeds the prompt.

    A distribution that never reaches the threshold, by rounding, gets 0, and so the prompt plus 1.
    """
    reached = (np.cumsum(distributions, axis=1) >= threshold).argmax(axis=1)
    lengths: Ints = np.maximum(reached, prompt_tokens + 1)
    return lengths


def answer_quantiles(answers: Distributions, threshold: float) -> Ints:
    """Return the quantiles of the answers' own lengths, from `given_the_prompt`; tokens, >= 1."""
    cumulated = np.cumsum(answers, axis=1)
    # The last is 1 by definition, even where rounding makes it less.
    cumulated[:, -1] = 1.0
    lengths: Ints = np.maximum((cumulated >= threshold).argmax(axis=1), 1)
    return lengths


def given_the_prompt(distributions: Distributions, prompt_tokens: Ints) -> Distributions:
    """Return distributions of the answers' own lengths, given the prompt's length; same shape."""
    rows, width = distributions.shape
    places = np.arange(width)[None, :] + np.asarray(prompt_tokens)[:, None]  # (rows, width)
    inside = places < width
    taken = distributions[np.arange(rows)[:, None], places.clip(max=width - 1)]
    shifted = np.where(inside, taken, 0.0)
    shifted[:, 0] = 0.0
    total = shifted.sum(axis=1, keepdims=True)
    nothing = total[:, 0] <= 0
    shifted[nothing, -1] = 1.0
    total[nothing] = 1.0
    shifted /= total
    return shifted


def published_search(
    distributions: Distributions,
    plan: Callable[[float], Sequence[PlannedBatch]],
    *,
    base: int,
    thresholds: Sequence[float] = THRESHOLDS,
) -> float:
    """Return, as published, the threshold whose plan has the fewest expected steps.

    A batch takes the expected maximum of its members; mass beyond the cap is put just behind the
    cap. Failures take the expected maximum of *all* rests, once for each `base` of them.

    Args:
        distributions: Distributions of total lengths.
        plan: Makes the batches at a threshold; their caps are total lengths.
        base: Batch size of the second attempts.
        thresholds: The thresholds to try.
    """
    width = distributions.shape[1]
    logs = _log(np.cumsum(distributions, axis=1))  # of the CDFs

    def cost(threshold: float) -> float:
        steps, failures = 0.0, 0.0
        no_rest = np.zeros(width)  # log of the CDF of the longest of all rests
        for batch in plan(threshold):
            members, cap = list(batch.members), min(batch.cap, width - 1)
            longest = np.exp(logs[members].sum(axis=0))
            longest[min(cap + 1, width - 1) :] = 1.0
            steps += _mean(longest)
            failures += float((1 - np.exp(logs[members, cap])).sum())
            no_rest[: width - cap] += logs[members, cap:].sum(axis=0)
        return steps + _mean(np.exp(no_rest)) * failures / base

    return min(thresholds, key=cost)


def corrected_search(
    answers: Distributions,
    plan: Callable[[float], Sequence[PlannedBatch]],
    *,
    base: int,
    step_s: Callable[[int], float],
    thresholds: Sequence[float] = THRESHOLDS,
) -> float:
    """Return the threshold whose plan has the least expected time.

    A step costs what it does at the batch's size. A second batch takes as long as the longest of
    *its* rests, not of all.

    Args:
        answers: Distributions of the answers' lengths, from `given_the_prompt`.
        plan: Makes the batches at a threshold; their caps are lengths of answers.
        base: Batch size of the second attempts.
        step_s: The time of one step by batch size, s.
        thresholds: The thresholds to try.
    """
    logs = _log(np.cumsum(answers, axis=1))  # of the CDFs
    width = answers.shape[1]

    def cost(threshold: float) -> float:
        seconds, failures = 0.0, 0.0
        rests = np.zeros(width)  # mass of the rests' lengths, over all answers that may fail
        for batch in plan(threshold):
            members, cap = list(batch.members), min(batch.cap, width - 1)
            longest = np.exp(logs[members].sum(axis=0))
            longest[cap:] = 1.0
            seconds += _mean(longest) * step_s(len(members))
            failing = answers[members, cap + 1 :].sum(axis=0)
            failures += float(failing.sum())
            rests[1 : width - cap] += failing
        if failures < 1e-9:
            return seconds
        one = np.minimum(np.cumsum(rests) / failures, 1.0)
        whole = _mean(one**base) * step_s(base)
        last = failures % base
        return seconds + failures // base * whole + _mean(one**last) * step_s(max(round(last), 1))

    return min(thresholds, key=cost)


def _log(cumulated: NDArray[np.float64]) -> NDArray[np.float64]:
    logs: NDArray[np.float64] = np.log(np.clip(cumulated, 1e-12, 1.0))
    return logs


def _mean(cumulated: NDArray[np.float64]) -> float:
    """Return the mean of a length with this CDF over 0, 1, 2, ..."""
    return float((1.0 - cumulated).sum())
