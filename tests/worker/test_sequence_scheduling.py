"""Caps and step costs of sequence scheduling. The cut into batches is tested in tests/lab."""

from __future__ import annotations

import random

import pytest

from lengthwise_worker.engines.transformers.sequence_scheduling import LengthRatios, StepCost


def test_a_cap_covers_the_configured_share_of_answers_once_some_have_ended() -> None:
    ratios, rng = LengthRatios(), random.Random(1)  # noqa: S311
    # A predictor that predicts half of the length, and is uncertain.
    for _ in range(400):
        ratios.learn(predicted=100, actual=max(1, round(200 * rng.lognormvariate(0, 0.5))))
    fresh = [200 * rng.lognormvariate(0, 0.5) for _ in range(400)]
    for quantile in (0.5, 0.7, 0.9):
        cap = ratios.cap(100, has=0, quantile=quantile)
        assert sum(length <= cap for length in fresh) / 400 == pytest.approx(quantile, abs=0.07)


def test_before_any_answer_has_ended_the_median_cap_is_the_prediction() -> None:
    assert LengthRatios().cap(100, has=0, quantile=0.5) == pytest.approx(100, rel=0.1)


def test_a_cap_is_larger_than_the_length_of_an_answer() -> None:
    ratios = LengthRatios()
    has = 0
    for _ in range(30):
        cap = ratios.cap(10, has=has, quantile=0.7)
        assert cap > has
        has = cap


def test_the_cap_of_an_answer_longer_than_all_others_is_twice_its_length() -> None:
    assert LengthRatios().cap(10, has=1000, quantile=0.7) == 2000


def test_old_answers_are_forgotten() -> None:
    ratios = LengthRatios(window=50)
    for _ in range(200):
        ratios.learn(predicted=100, actual=400)
    for _ in range(50):
        ratios.learn(predicted=100, actual=20)
    assert ratios.cap(100, has=0, quantile=0.99) == 20


def test_the_cost_of_a_step_is_a_line_through_the_measurements() -> None:
    cost = StepCost()
    assert cost(32) > cost(16) > 0
    for size in (4, 8, 16, 32) * 20:
        cost.learn(size, 0.020 + 0.001 * size)
    assert cost(64) == pytest.approx(0.084, rel=0.01)


def test_the_cost_of_a_step_never_falls_with_the_size() -> None:
    cost = StepCost()
    for _ in range(20):
        cost.learn(4, 0.05)
        cost.learn(32, 0.02)
    assert cost(64) >= cost(4) > 0
