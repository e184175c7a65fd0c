"""The order of service: the due time of a job, fixed when the job is accepted. Pure.

The waiting job with the smallest due time is served first. Called by `pricing`, whose result the
Lua script `submit` gets as an argument, and by the lab, which runs this very code.
"""

from __future__ import annotations

import math

from lengthwise_contract.queue_settings import PolicyName, QueueSettings


def overtake_bound_ms(
    predicted_ms: float, overtake_factor: float, usual_ms: float, credit_ms: float
) -> float:
    """Compute how much later a job may be accepted and still overtake this one, ms.

    The larger of two bounds: k times the predicted length, and, for a long answer, the credit of
    the queue that it found. `k * predicted` alone reaches as far as k answers, which is nothing in
    a queue of hundreds: in a lasting overload it is nearly first come, first served. The credit
    grows with the queue. It is for answers longer than usual: half of it at the usual length,
    nearly nothing at half of that, nearly all at twice. So there are two groups, short and long.
    Each keeps its order of acceptance, and the long answers bear a delay that is a multiple of
    their own wait. (Learned predictions stand close to the usual length; with the fourth power
    the step told few of them apart: docs/decisions/0082-a-steeper-step.md.)

    Numbers only, no keywords: the lab compiles this very function.

    Args:
        predicted_ms: How long the answer is expected to take on the engine, ms, >= 0.
        overtake_factor: k, >= 0.
        usual_ms: The mean of that over all answers, ms; 0: unknown, no answer counts as long.
        credit_ms: From `wait_credit_ms`, >= 0.
    """
    bound_ms = overtake_factor * predicted_ms
    if credit_ms > 0 and usual_ms > 0:
        times = min(predicted_ms / usual_ms, 1e3)
        bound_ms = max(bound_ms, credit_ms * (1 - 1 / (1 + times**8)))
    return bound_ms


def wait_credit_ms(
    wait_ms: float, *, wait_factor: float, rank_accuracy: float | None, most_ms: float = math.inf
) -> float:
    """Compute the credit that the queue found by a job gives to the short answers behind it, ms.

    The credit grows with the accuracy of the predictions: all of it if they are always right,
    nothing if they are no better than a coin, or if their accuracy is not known yet. So a
    predictor without skill costs no more than k allows.

    Args:
        wait_ms: How long the job would wait first come, first served, ms, >= 0.
        wait_factor: How many times that a long answer may be overtaken for, at most, >= 0.
        rank_accuracy: The share of pairs of answers that the predictor puts in the right order,
            of those that it tells apart; None: not known yet.
        most_ms: The upper bound of the credit, from `class_room_ms`, ms.
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
    """Compute the time from a job's acceptance to its due time, ms.

    `due_ms = accepted_ms + slack_ms`, fixed at acceptance: the queue is never sorted again, and a
    claim removes one element.

    The promise: no job is overtaken by one of its class that was accepted later than it by more
    than its own slack (without the class's offset). The slack is known when the job is accepted.
    A later K overtakes J only if `accepted_K + slack_K < accepted_J + slack_J`. No slack is
    negative, so K was accepted less than `slack_J` after J.

    Args:
        predicted_ms: How long the answer is expected to take on the engine, ms, >= 0.
        policy: `sjf` orders by predicted length with credit for waiting; `fcfs` and `shadow`
            serve in the order of acceptance (`shadow` still records its predictions).
        overtake_factor: k, >= 0; 0 is first come, first served, a large k is shortest job first.
        class_offset_ms: The class's handicap, ms, >= 0. An offset, not a slope: the job still
            ages.
        usual_ms: As for `overtake_bound_ms`.
        credit_ms: As for `overtake_bound_ms`; 0: only k counts.

    Returns:
        ms, >= 0.

    Raises:
        ValueError: A number is negative or not finite.

    Source: a static form of aging, related to Jackson's urgency numbers (1960) and to EEVDF's
    `start + request / weight`; docs/decisions 0060 and 0061 argue for the numbers.
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


def class_offset_ms(settings: QueueSettings, job_class: str) -> float:
    """Return the handicap of a class of this queue, ms.

    Raises:
        KeyError: The queue has no class of that name.
    """
    for known in settings.classes:
        if known.name == job_class:
            return known.offset_ms
    raise KeyError(job_class)


def class_room_ms(settings: QueueSettings, job_class: str) -> float:
    """Return the largest credit for a job of this class, ms: half the distance to the next class.

    With more, a long answer of one class would be behind short ones of a later class that were
    accepted at the same time. With half, it keeps a head start over those, too.

    Returns:
        ms; infinite for the last class.

    Raises:
        KeyError: The queue has no class of that name.
    """
    own_ms = class_offset_ms(settings, job_class)
    behind = [known.offset_ms - own_ms for known in settings.classes if known.offset_ms > own_ms]
    return min(behind) / 2 if behind else math.inf
