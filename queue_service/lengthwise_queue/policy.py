"""Who is next: the due time of a job, decided once, when it is accepted. Pure.

The smallest due time is served first. Called by the HTTP routes (to price a job), by the Lua
script `submit` through its argument, and by the lab, which runs this very code.
"""

from __future__ import annotations

import math

from lengthwise_contract.api import PolicyName, Prediction, QueueSettings


def slack_ms(
    predicted_ms: float,
    *,
    policy: PolicyName,
    overtake_factor: float,
    class_offset_ms: float = 0.0,
) -> float:
    """How long after its acceptance a job falls due, ms.

    `due_ms = accepted_ms + slack_ms`. With one slope for everybody "now" cancels out of every
    comparison, so a due time never goes stale: the line needs no rescan, and a claim is one pop.

    The promise: no job is overtaken by one of its class that was accepted more than k times its
    own predicted length later. A later K overtakes J only if
    `accepted_K + k * predicted_K < accepted_J + k * predicted_J`, so K was accepted less than
    `k * predicted_J` after J.

    Args:
        predicted_ms: How long the answer is expected to take on the engine, ms, >= 0.
        policy: `sjf` orders by predicted length with credit for waiting; `fcfs` and `shadow`
            serve in the order of acceptance (shadow still records its predictions).
        overtake_factor: k, >= 0; 0 is first come first served, a large k is shortest job first.
        class_offset_ms: The class's handicap, ms, >= 0. An offset, never a slope: it ages too.

    Returns:
        ms, >= 0.

    Raises:
        ValueError: A number is negative or not finite.

    Source: a static form of aging, kin to Jackson's urgency numbers (1960) and to EEVDF's
    `start + request / weight`; k = 3 is argued in docs/ordering.md.
    """
    for name, value in (
        ("predicted_ms", predicted_ms),
        ("overtake_factor", overtake_factor),
        ("class_offset_ms", class_offset_ms),
    ):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{name} must be finite and >= 0, got {value}")
    if policy == "sjf":
        return overtake_factor * predicted_ms + class_offset_ms
    return class_offset_ms


def expected_tokens(
    prediction: Prediction | None, *, median_tokens: float, max_tokens: int | None
) -> float:
    """The length that a job is ordered by: the mean of its answer, cut at its cap, output tokens.

    The mean, because serving the smallest expected size first is what minimises the mean wait
    (Rothkopf 1966, "Scheduling with random service times"). Of the *cut* answer, E[min(L, cap)],
    because the cap cuts the answer and not the prediction: `min(p50, cap)` made one heap of all
    that was predicted above the cap, and lost half of the gain (docs/experiments.md, "the cap").

    Args:
        prediction: The predictor's answer, or None when it did not answer in time. L is taken to
            be log-normal with its median and its p10 to p90.
        median_tokens: The service's own median length, the fallback, tokens.
        max_tokens: The request's own cap on its answer, tokens; None: no cap.
    """
    if prediction is None:
        return median_tokens if max_tokens is None else min(median_tokens, float(max_tokens))
    quantiles = (prediction.p10_tokens, prediction.p50_tokens, prediction.p90_tokens)
    return mean_of_cut(quantiles, max_tokens)


def mean_of_cut(quantiles: tuple[float, float, float], max_tokens: int | None) -> float:
    """E[min(L, max_tokens)] of a log-normal L with these p10, p50 and p90, tokens, each > 0."""
    p10, p50, p90 = quantiles
    spread = math.log(p90 / p10) / (2 * _Z90)
    centre = math.log(p50)
    # Wider than e^1.5 either way is a predictor that knows nothing; the mean would run away.
    spread = min(max(spread, 1e-6), 1.5)
    mean = math.exp(centre + spread**2 / 2)
    if max_tokens is None:
        return mean
    above = (math.log(max_tokens) - centre) / spread
    return mean * _normal_cdf(above - spread) + max_tokens * (1 - _normal_cdf(above))


#: The standard normal's 90th percentile.
_Z90 = 1.2815515655446004


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def class_offset_ms(settings: QueueSettings, job_class: str) -> float:
    """The handicap of a class of this queue, ms.

    Raises:
        KeyError: The queue has no class of that name.
    """
    for known in settings.classes:
        if known.name == job_class:
            return known.offset_ms
    raise KeyError(job_class)
