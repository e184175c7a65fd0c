"""What a job is expected to cost, and when it falls due. Pure; the rule itself is in `policy`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.prediction.calibration import Calibrations
from lengthwise_queue.scheduling import policy
from lengthwise_store.jobs import UNKNOWN_BASIS, Basis, QueueStats, Shape, predictor_tag

#: Of a queue whose answers nobody has looked at.
UNCALIBRATED = Calibrations()


@dataclass(frozen=True, kw_only=True)
class Price:
    """The expected cost of a job: output tokens, ms on the engine; and when it falls due.

    `slack_ms` is from acceptance to due under `sjf`, `offset_ms` the same under the other policies.
    """

    tokens: float
    ms: float
    slack_ms: float
    offset_ms: float
    basis: Basis = UNKNOWN_BASIS  #: What it rests on, to be learned from.


def price(
    settings: QueueSettings,
    stats: QueueStats,
    *,
    prediction: Prediction | None,
    job_class: str,
    max_tokens: int | None,
    answers: int,
    calibrations: Calibrations = UNCALIBRATED,
    shape: Shape = (0, 0),
    wait_ms: float = 0.0,
    usual_tokens: float = 0.0,
    rank_accuracy: Callable[[str], float | None] = lambda _: None,
) -> Price:
    """Price one job.

    Args:
        settings: Those of its queue.
        stats: Of its queue; what was measured there is used, else what the settings assume.
        prediction: Of one answer, or None for the fallback.
        job_class: One of the queue's classes.
        max_tokens: The request's cap on one answer, tokens, or None.
        answers: How many answers it asks for (prompts x n). Each takes room in the engine's
            batch for its own length, so the cost is the sum, though they are made side by side.
        calibrations: What the last answers say about such predictions.
        shape: The prompt's.
        wait_ms: How long it would wait first come, first served, ms; 0: nobody knows.
        usual_tokens: The mean predicted length here, tokens; 0: nobody knows.
        rank_accuracy: How right a predictor's order is, by its tag; None: nobody knows.

    Raises:
        KeyError: The queue has no such class.
    """
    calibrated = None
    tag = "" if prediction is None else predictor_tag(prediction.model_version)
    credit_ms = policy.wait_credit_ms(
        wait_ms,
        wait_factor=settings.overtake_wait_factor,
        rank_accuracy=None if prediction is None else rank_accuracy(tag),
        most_ms=policy.class_room_ms(settings, job_class),
    )
    if prediction is not None and settings.calibrate:
        corrected = calibrations.of(tag).apply(prediction, shape)
        if corrected is not prediction:
            prediction = corrected
            calibrated = (corrected.p10_tokens, corrected.p50_tokens, corrected.p90_tokens)
    tokens = answers * policy.expected_tokens(
        prediction, median_tokens=median_tokens(settings, stats), max_tokens=max_tokens
    )
    pace_ms = ms_per_token(settings, stats)
    ms = tokens * pace_ms
    offset_ms = policy.class_offset_ms(settings, job_class)
    # Both, because the store decides which one counts: the policy may change while a job waits.
    slack_ms = policy.slack_ms(
        ms,
        policy="sjf",
        overtake_factor=settings.overtake_factor,
        class_offset_ms=offset_ms,
        usual_ms=usual_tokens * pace_ms,
        credit_ms=credit_ms,
    )
    basis = Basis(calibrated=calibrated, max_tokens=max_tokens, answers=answers, shape=shape)
    return Price(tokens=tokens, ms=ms, slack_ms=slack_ms, offset_ms=offset_ms, basis=basis)


def ms_per_token(settings: QueueSettings, stats: QueueStats) -> float:
    """What one output token of one job takes here, ms."""
    measured = stats.ms_per_token
    return settings.default_ms_per_token if measured is None else measured


def median_tokens(settings: QueueSettings, stats: QueueStats) -> float:
    """The usual length of an answer here, tokens."""
    measured = stats.median_tokens
    return settings.default_tokens if measured is None else measured


def drain_ms(settings: QueueSettings, stats: QueueStats, tokens: float) -> float | None:
    """How long the workers take for `tokens` of waiting work, ms; None: there is no worker."""
    slots = sum(worker.slots for worker in stats.workers)
    return tokens * ms_per_token(settings, stats) / slots if slots else None
