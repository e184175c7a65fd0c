from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_contract.api import PolicyName, Prediction, QueueSettings
from lengthwise_queue import policy

lengths = st.floats(min_value=0, max_value=1e7)
times = st.floats(min_value=0, max_value=1e9)


@given(early=times, early_ms=lengths, gap=st.floats(0, 1e9), late_ms=lengths, k=st.floats(0, 100))
def test_no_job_is_overtaken_by_one_accepted_more_than_k_times_its_length_later(
    early: float, early_ms: float, gap: float, late_ms: float, k: float
) -> None:
    due_early = early + policy.slack_ms(early_ms, policy="sjf", overtake_factor=k)
    due_late = early + gap + policy.slack_ms(late_ms, policy="sjf", overtake_factor=k)
    if due_late < due_early:
        assert gap <= k * early_ms + 1e-3  # rounding of sums near 1e9


@given(ms=st.lists(lengths, min_size=2, max_size=20), k=st.floats(0.1, 100))
def test_jobs_accepted_together_leave_shortest_first(ms: list[float], k: float) -> None:
    slacks = [policy.slack_ms(one, policy="sjf", overtake_factor=k) for one in ms]
    assert [x for _, x in sorted(zip(slacks, ms, strict=True))] == sorted(ms)


@pytest.mark.parametrize("name", ["fcfs", "shadow"])
@given(ms=lengths)
def test_fcfs_and_shadow_do_not_look_at_the_length(name: PolicyName, ms: float) -> None:
    assert policy.slack_ms(ms, policy=name, overtake_factor=3) == 0


def test_k_of_zero_is_fcfs() -> None:
    assert policy.slack_ms(5000, policy="sjf", overtake_factor=0) == 0


def test_a_class_is_an_offset_under_every_policy() -> None:
    assert policy.slack_ms(100, policy="sjf", overtake_factor=3, class_offset_ms=50) == 350
    assert policy.slack_ms(100, policy="fcfs", overtake_factor=3, class_offset_ms=50) == 50


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_a_length_that_is_no_length_is_refused_with_its_value(bad: float) -> None:
    with pytest.raises(ValueError, match="predicted_ms must be finite and >= 0"):
        policy.slack_ms(bad, policy="sjf", overtake_factor=3)


def test_expected_tokens_is_the_median_predicted_capped_by_the_request() -> None:
    said = Prediction(
        model_version="v",
        p10_tokens=10,
        p50_tokens=100,
        p90_tokens=300,
        mean_tokens=120,
        rank_score=1,
    )
    assert policy.expected_tokens(said, median_tokens=50, max_tokens=None) == 100
    assert policy.expected_tokens(said, median_tokens=50, max_tokens=16) == 16
    assert policy.expected_tokens(None, median_tokens=50, max_tokens=None) == 50


def test_a_class_that_the_queue_does_not_have_is_named() -> None:
    assert policy.class_offset_ms(QueueSettings(), "batch") == 600_000
    with pytest.raises(KeyError, match="gold"):
        policy.class_offset_ms(QueueSettings(), "gold")
