"""Compute what a job is expected to cost, and its due time. Pure; `policy` has the rule itself.

Called by `admission.submit` for each job, and by the metrics and views for the backlog of a queue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.prediction.calibration import Calibrations
from lengthwise_queue.prediction.candidates import moved, tag_of
from lengthwise_queue.prediction.expected_length import expected_tokens
from lengthwise_queue.scheduling import policy
from lengthwise_queue.scheduling.length_bounds import NATURAL, LengthBounds
from lengthwise_store.prediction_record import (
    UNKNOWN_BASIS,
    Basis,
    LearnedPrediction,
    Shape,
    predictor_tag,
)
from lengthwise_store.queues import QueueStats

#: The calibrations of a queue without answers.
UNCALIBRATED = Calibrations()


@dataclass(frozen=True, kw_only=True)
class Price:
    """The expected cost of a job, and its time to the due time.

    Attributes:
        tokens: Output tokens.
        ms: Time on the engine, ms.
        slack_ms: From acceptance to the due time under `sjf`, ms.
        offset_ms: From acceptance to the due time under the other policies, ms.
        basis: What the price rests on; stored with the job, and the calibration learns from it.
    """

    tokens: float
    ms: float
    slack_ms: float
    offset_ms: float
    basis: Basis = UNKNOWN_BASIS


def price(
    settings: QueueSettings,
    stats: QueueStats,
    *,
    prediction: Prediction | None,
    learning: LearnedPrediction | None = None,
    job_class: str,
    max_tokens: int | None,
    answers: int,
    calibrations: Calibrations = UNCALIBRATED,
    shape: Shape = (0, 0),
    wait_ms: float = 0.0,
    usual_tokens: float = 0.0,
    rank_accuracy: Callable[[str], float | None] = lambda _: None,
    bounds: LengthBounds = NATURAL,
) -> Price:
    """Price one job.

    Args:
        settings: The queue's.
        stats: The queue's; the measured figures are used, or else those that the settings assume.
        prediction: Of one answer; None: the queue's median length is used.
        learning: What was learned beside it, and which of them counts; None: nothing.
        job_class: One of the queue's classes.
        max_tokens: The request's cap on one answer, tokens; None: no cap.
        answers: How many answers the job requests (prompts x n). Each takes room in the engine's
            batch for its own length, so the cost is the sum, though they are generated side by
            side.
        calibrations: Those of the queue.
        shape: The prompt's.
        wait_ms: How long the job would wait first come, first served, ms; 0: unknown.
        usual_tokens: The mean predicted length in this queue, tokens; 0: unknown.
        rank_accuracy: Maps a predictor, by its tag, to the accuracy of its order; None: unknown.
        bounds: What is certain about the length of one answer.

    Raises:
        KeyError: The queue has no such class.
    """
    calibrated = None
    tag = "" if prediction is None else predictor_tag(prediction.model_version)
    if prediction is not None and learning is not None:
        tag = tag_of(tag, learning.served)
        prediction = _moved(prediction, learning.of(learning.served))
    credit_ms = policy.wait_credit_ms(
        wait_ms,
        wait_factor=settings.overtake_wait_factor,
        rank_accuracy=None if prediction is None else rank_accuracy(tag),
        most_ms=policy.class_room_ms(settings, job_class),
    )
    if prediction is not None and settings.calibrate:
        calibration = calibrations.of(tag)
        corrected = calibration.apply(prediction, shape)
        if corrected is not prediction:
            prediction = corrected
            calibrated = (corrected.p10_tokens, corrected.p50_tokens, corrected.p90_tokens)
            prediction = calibration.for_price(corrected)
    tokens = answers * expected_tokens(
        prediction,
        median_tokens=median_tokens(settings, stats),
        max_tokens=_most(settings, max_tokens, bounds),
        min_tokens=bounds.least,
        runs_to_cap=bounds.runs_to_cap,
    )
    pace_ms = ms_per_token(settings, stats)
    ms = tokens * pace_ms
    offset_ms = policy.class_offset_ms(settings, job_class)
    # Both times, because the store decides which one counts: the policy may change while a job
    # waits.
    slack_ms = policy.slack_ms(
        ms,
        policy="sjf",
        overtake_factor=settings.overtake_factor,
        class_offset_ms=offset_ms,
        usual_ms=usual_tokens * pace_ms,
        credit_ms=credit_ms,
    )
    basis = Basis(
        calibrated=calibrated,
        max_tokens=max_tokens,
        answers=answers,
        shape=shape,
        learning=learning,
    )
    return Price(tokens=tokens, ms=ms, slack_ms=slack_ms, offset_ms=offset_ms, basis=basis)


def _most(settings: QueueSettings, max_tokens: int | None, bounds: LengthBounds) -> int | None:
    """Return the most tokens that one answer can have; None: nothing bounds it."""
    known = (max_tokens, bounds.most, settings.max_model_len)
    return min((bound for bound in known if bound is not None), default=None)


def _moved(prediction: Prediction, log_tokens: float | None) -> Prediction:
    """Move a prediction to a learned median; None: leave it as it is."""
    if log_tokens is None:
        return prediction
    raw = (prediction.p10_tokens, prediction.p50_tokens, prediction.p90_tokens)
    p10, p50, p90 = moved(raw, log_tokens)
    mean = prediction.mean_tokens * (p50 / prediction.p50_tokens)
    return prediction.model_copy(
        update={"p10_tokens": p10, "p50_tokens": p50, "p90_tokens": p90, "mean_tokens": mean}
    )


def ms_per_token(settings: QueueSettings, stats: QueueStats) -> float:
    """Return the cost of one output token of one job in this queue, ms; measured, or assumed."""
    measured = stats.ms_per_token
    return settings.default_ms_per_token if measured is None else measured


def median_tokens(settings: QueueSettings, stats: QueueStats) -> float:
    """Return the median length of an answer in this queue, tokens; measured, or assumed."""
    measured = stats.median_tokens
    return settings.default_tokens if measured is None else measured


def drain_ms(settings: QueueSettings, stats: QueueStats, tokens: float) -> float | None:
    """Compute how long the workers take for `tokens` of waiting work, ms; None: no worker."""
    slots = sum(worker.slots for worker in stats.workers)
    return tokens * ms_per_token(settings, stats) / slots if slots else None
