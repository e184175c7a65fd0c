"""Compute the expected length of an answer from its predicted distribution. Pure.

Called by `scheduling.pricing`, which orders jobs by it, and by `quality`, which compares it with
the real lengths.
"""

from __future__ import annotations

import math

from lengthwise_contract.prediction import Prediction

#: The 90th percentile of the standard normal distribution.
_Z90 = 1.2815515655446004


def expected_tokens(
    prediction: Prediction | None,
    *,
    median_tokens: float,
    max_tokens: int | None,
    min_tokens: int = 0,
    runs_to_cap: bool = False,
) -> float:
    """Compute the length that a job is ordered by: the mean of its answer, cut at its cap.

    The mean, because serving the smallest expected size first minimises the mean wait (Rothkopf
    1966, "Scheduling with random service times"). Of the *cut* answer, E[min(L, cap)], because the
    cap cuts the answer and not the prediction. With `min(p50, cap)` all jobs predicted above the
    cap were equal, and half of the gain was lost (docs/research/experiments.md, "the cap").

    Args:
        prediction: What the predictor returned, or None when it did not answer in time. L is
            taken to be log-normal with its median and its p10 to p90.
        median_tokens: The queue's own median length, used without a prediction, tokens.
        max_tokens: The request's own cap on its answer, tokens; None: no cap.
        min_tokens: The answer does not end before so many.
        runs_to_cap: The answer ends at its cap and not before.

    Returns:
        Output tokens.
    """
    if max_tokens is not None and (runs_to_cap or min_tokens >= max_tokens):
        return float(max_tokens)
    if prediction is None:
        tokens = median_tokens if max_tokens is None else min(median_tokens, float(max_tokens))
        return max(tokens, float(min_tokens))
    quantiles = (prediction.p10_tokens, prediction.p50_tokens, prediction.p90_tokens)
    expected = mean_of_cut(quantiles, max_tokens)
    # E[max(L, m)] = E[L] + m - E[min(L, m)]: an answer that would have ended before goes on to m.
    return expected + min_tokens - mean_of_cut(quantiles, min_tokens) if min_tokens else expected


def mean_of_cut(quantiles: tuple[float, float, float], max_tokens: int | None) -> float:
    """Compute E[min(L, max_tokens)] of a log-normal L, tokens.

    Args:
        quantiles: The p10, p50 and p90 of L, tokens, each > 0.
        max_tokens: The cap, tokens; None: no cap.
    """
    p10, p50, p90 = quantiles
    spread = math.log(p90 / p10) / (2 * _Z90)
    centre = math.log(p50)
    # A predictor whose spread is wider than e^1.5 either way predicts nothing. Without this bound
    # the mean would grow without limit.
    spread = min(max(spread, 1e-6), 1.5)
    mean = math.exp(centre + spread**2 / 2)
    if max_tokens is None:
        return mean
    above = (math.log(max_tokens) - centre) / spread
    return mean * _normal_cdf(above - spread) + max_tokens * (1 - _normal_cdf(above))


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))
