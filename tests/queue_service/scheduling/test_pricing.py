"""The expected cost of a job."""

from __future__ import annotations

from typing import Any

import pytest

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.metrics import length_bucket
from lengthwise_queue.prediction.calibration_fit import fit_all
from lengthwise_queue.scheduling import pricing
from lengthwise_store.prediction_record import MeasuredAnswer, predictor_tag
from lengthwise_store.queues import QueueStats

PREDICTION = Prediction(
    model_version="v", p10_tokens=100, p50_tokens=100, p90_tokens=100, mean_tokens=100, rank_score=1
)
SETTINGS = QueueSettings(default_tokens=300, default_ms_per_token=20, overtake_factor=3)


def stats(**changes: Any) -> QueueStats:
    fields: dict[str, Any] = {
        "now_ms": 0.0,
        "depth": 0,
        "scheduled": 0,
        "in_flight": 0,
        "dead": 0,
        "backlog_tokens": 0.0,
        "oldest_accepted_ms": None,
        "ms_per_token": None,
        "median_tokens": None,
        "counters": {},
        "workers": [],
    }
    return QueueStats(**(fields | changes))


def price(seen: QueueStats | None = None, **changes: Any) -> pricing.Price:
    asked: dict[str, Any] = {
        "prediction": PREDICTION,
        "job_class": "interactive",
        "max_tokens": None,
        "answers": 1,
    }
    return pricing.price(SETTINGS, seen or stats(), **(asked | changes))


@pytest.mark.parametrize(
    ("seen", "asked", "tokens", "ms"),
    [
        ({}, {}, 100, 2000),
        ({"ms_per_token": 5.0}, {}, 100, 500),
        ({}, {"max_tokens": 40}, 40, 800),
        ({}, {"max_tokens": 40, "answers": 3}, 120, 2400),
        ({}, {"prediction": None}, 300, 6000),
        ({"median_tokens": 10.0}, {"prediction": None}, 10, 200),
    ],
    ids=["predicted", "measured speed", "capped", "several answers", "assumed", "median"],
)
def test_the_price_of_a_job(
    seen: dict[str, Any], asked: dict[str, Any], tokens: float, ms: float
) -> None:
    cost = price(stats(**seen), **asked)
    assert (cost.tokens, cost.ms, cost.slack_ms) == pytest.approx((tokens, ms, 3 * ms))


def test_a_class_adds_its_offset_and_an_unknown_one_is_an_error() -> None:
    assert price(job_class="batch").slack_ms == pytest.approx(6000 + 600_000)
    with pytest.raises(KeyError):
        price(job_class="vip")


def test_the_due_time_of_a_long_answer_follows_the_queue_that_it_found() -> None:
    found: dict[str, Any] = {
        "wait_ms": 60_000.0,
        "usual_tokens": 50.0,
        "rank_accuracy": lambda tag: 0.9,
    }
    # 2 times the wait, times 2 x 0.9 - 1 for the accuracy, times 16/17 for twice the usual length.
    assert price(**found).slack_ms == pytest.approx(2 * 60_000 * 0.8 * 256 / 257)
    assert price(prediction=None, **found).slack_ms == pytest.approx(3 * 6000)


def test_a_wait_factor_of_zero_leaves_k_alone() -> None:
    settings = SETTINGS.model_copy(update={"overtake_wait_factor": 0.0})
    cost = pricing.price(
        settings,
        stats(),
        prediction=PREDICTION,
        job_class="interactive",
        max_tokens=None,
        answers=1,
        wait_ms=1e6,
        usual_tokens=50,
        rank_accuracy=lambda tag: 1.0,
    )
    assert cost.slack_ms == pytest.approx(3 * 2000)


@pytest.mark.parametrize(
    ("tokens", "want"), [(0, "0-64"), (64, "64-256"), (1023.9, "256-1024"), (1e6, "1024+")]
)
def test_every_length_has_a_bucket(tokens: float, want: str) -> None:
    assert length_bucket(tokens) == want


def test_a_price_uses_the_calibrated_length_and_records_its_basis() -> None:
    seen = [
        MeasuredAnswer(
            tokens=400,
            priced=100,
            raw=(50, 100, 200),
            calibrated=(50, 100, 200),
            predictor=predictor_tag("v"),
        )
    ] * 200
    fitted = fit_all(seen)
    cost = price(calibrations=fitted, max_tokens=1000)
    assert 300 < cost.tokens < 420
    assert cost.basis.calibrated is not None
    assert cost.basis.calibrated[1] == pytest.approx(cost.tokens, rel=0.1)
    assert cost.basis.max_tokens == 1000
    off = QueueSettings(calibrate=False)
    plain = pricing.price(
        off,
        stats(),
        prediction=PREDICTION,
        job_class="interactive",
        max_tokens=None,
        answers=1,
        calibrations=fitted,
    )
    assert plain.tokens == pytest.approx(100)
    assert plain.basis.calibrated is None
