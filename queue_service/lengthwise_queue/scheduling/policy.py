"""Who is next: the due time of a job, decided once, when it is accepted. Pure.

The smallest due time is served first. Called by `pricing`, and so by the Lua script `submit`
through its argument, and by the lab, which runs this very code.
"""

from __future__ import annotations

import math

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import PolicyName, QueueSettings


def overtake_bound_ms(
    predicted_ms: float, overtake_factor: float, usual_ms: float, credit_ms: float
) -> float:
    """How much later a job may be accepted and still overtake this one, ms.

    Whichever is more: k times the predicted length, or, of a long answer, what the line is worth
    that it found. `k * predicted` alone reaches as far as k answers, which is nothing in a line of
    hundreds, so in an overload that lasts it is first come, first served; the second part grows
    with the line. It is for answers longer than usual: half of it at the usual length, next to
    nothing at half of that, nearly all at twice. So there are two sorts, which keep their order
    of acceptance among themselves, and the long ones bear a delay that is a multiple of the line's
    own. (Steeper gains little, flatter costs p99: docs/decisions/0061-following-the-wait.md.)

    Numbers only, no keywords: the lab compiles this very function.

    Args:
        predicted_ms: How long the answer is expected to take on the engine, ms, >= 0.
        overtake_factor: k, >= 0.
        usual_ms: The mean of that over all answers, ms; 0: unknown, nothing is long.
        credit_ms: From `wait_credit_ms`, >= 0.
    """
    bound_ms = overtake_factor * predicted_ms
    if credit_ms > 0 and usual_ms > 0:
        times = min(predicted_ms / usual_ms, 1e3)
        bound_ms = max(bound_ms, credit_ms * (1 - 1 / (1 + times**4)))
    return bound_ms


def wait_credit_ms(
    wait_ms: float, *, wait_factor: float, rank_accuracy: float | None, most_ms: float = math.inf
) -> float:
    """What the line that a job finds is worth to the short answers behind it, ms.

    As much as the predictions deserve: all of it if they are always right, nothing if they are no
    better than a coin, or if nobody knows yet. A useless predictor then costs no more than k.

    Args:
        wait_ms: How long the job would wait first come, first served, ms, >= 0.
        wait_factor: How many times that a long answer may be overtaken for, at most, >= 0.
        rank_accuracy: The share of pairs of answers that the predictor puts in the right order,
            of those that it tells apart; None: not known yet.
        most_ms: Never more than this, from `class_room_ms`.
    """
    if rank_accuracy is None:
        return 0.0
    return min(wait_factor * max(0.0, 2 * rank_accuracy - 1) * wait_ms, most_ms)


def slack_ms(
    predicted_ms: float,
    *,
    policy: PolicyName,
    overtake_factor: float,
    class_offset_ms: float = 0.0,
    usual_ms: float = 0.0,
    credit_ms: float = 0.0,
) -> float:
    """How long after its acceptance a job falls due, ms.

    `due_ms = accepted_ms + slack_ms`, settled once: the line needs no rescan, and a claim is one
    pop.

    The promise: no job is overtaken by one of its class that was accepted later than it by more
    than its own slack (less the class's offset), which it is told when it is accepted. A later K
    overtakes J only if `accepted_K + slack_K < accepted_J + slack_J`, and no slack is negative,
    whatever it rests on: so K was accepted less than `slack_J` after J.

    Args:
        predicted_ms: How long the answer is expected to take on the engine, ms, >= 0.
        policy: `sjf` orders by predicted length with credit for waiting; `fcfs` and `shadow`
            serve in the order of acceptance (shadow still records its predictions).
        overtake_factor: k, >= 0; 0 is first come first served, a large k is shortest job first.
        class_offset_ms: The class's handicap, ms, >= 0. An offset, never a slope: it ages too.
        usual_ms: As for `overtake_bound_ms`.
        credit_ms: As for `overtake_bound_ms`; 0: k decides alone.

    Returns:
        ms, >= 0.

    Raises:
        ValueError: A number is negative or not finite.

    Source: a static form of aging, kin to Jackson's urgency numbers (1960) and to EEVDF's
    `start + request / weight`; the numbers are argued in docs/decisions 0060 and 0061.
    """
    for name, value in (
        ("predicted_ms", predicted_ms),
        ("overtake_factor", overtake_factor),
        ("class_offset_ms", class_offset_ms),
        ("usual_ms", usual_ms),
        ("credit_ms", credit_ms),
    ):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{name} must be finite and >= 0, got {value}")
    if policy == "sjf":
        bound_ms = overtake_bound_ms(predicted_ms, overtake_factor, usual_ms, credit_ms)
        return bound_ms + class_offset_ms
    return class_offset_ms


def expected_tokens(
    prediction: Prediction | None, *, median_tokens: float, max_tokens: int | None
) -> float:
    """The length that a job is ordered by: the mean of its answer, cut at its cap, output tokens.

    The mean, because serving the smallest expected size first is what minimises the mean wait
    (Rothkopf 1966, "Scheduling with random service times"). Of the *cut* answer, E[min(L, cap)],
    because the cap cuts the answer and not the prediction: `min(p50, cap)` made one heap of all
    that was predicted above the cap, and lost half of the gain (docs/research/experiments.md, "the
    cap").

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


def class_room_ms(settings: QueueSettings, job_class: str) -> float:
    """How far the line may push back a job of this class, ms: half the way to the next class.

    Were it more, a long answer of one class would stand behind short ones of a later class that
    came with it. Half, so that it keeps a head start over those, too.

    Returns:
        ms; infinite for the last class.

    Raises:
        KeyError: The queue has no class of that name.
    """
    own_ms = class_offset_ms(settings, job_class)
    behind = [known.offset_ms - own_ms for known in settings.classes if known.offset_ms > own_ms]
    return min(behind) / 2 if behind else math.inf
