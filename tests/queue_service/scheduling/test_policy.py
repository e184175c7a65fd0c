from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import PolicyName, QueueSettings
from lengthwise_queue.prediction.expected_length import expected_tokens
from lengthwise_queue.scheduling import policy

lengths = st.floats(min_value=0, max_value=1e7)
times = st.floats(min_value=0, max_value=1e9)


credits_ms = st.floats(min_value=0, max_value=1e8)
usual = st.floats(min_value=0, max_value=1e6)


@given(
    early=times,
    early_ms=lengths,
    early_credit=credits_ms,
    gap=st.floats(0, 1e9),
    late_ms=lengths,
    late_credit=credits_ms,
    k=st.floats(0, 100),
    usual_ms=usual,
    usual_later_ms=usual,
)
def test_no_job_is_overtaken_by_one_accepted_later_than_its_bound(
    early: float,
    early_ms: float,
    early_credit: float,
    gap: float,
    late_ms: float,
    late_credit: float,
    k: float,
    usual_ms: float,
    usual_later_ms: float,
) -> None:
    # Even if the later one found another queue, another usual length or another accuracy.
    bound = policy.slack_ms(
        early_ms, policy="sjf", overtake_factor=k, usual_ms=usual_ms, credit_ms=early_credit
    )
    due_late = (early + gap) + policy.slack_ms(
        late_ms, policy="sjf", overtake_factor=k, usual_ms=usual_later_ms, credit_ms=late_credit
    )
    if due_late < early + bound:
        assert gap <= bound + 1e-3  # rounding of sums near 1e9


@given(ms=lengths, k=st.floats(0, 100), usual_ms=usual, credit_ms=credits_ms)
def test_a_bound_is_never_below_k_times_the_length_nor_above_that_and_the_credit(
    ms: float, k: float, usual_ms: float, credit_ms: float
) -> None:
    bound = policy.overtake_bound_ms(ms, k, usual_ms, credit_ms)
    assert k * ms <= bound <= max(k * ms, credit_ms)


@pytest.mark.parametrize(
    ("times_usual", "want"),
    [(0.5, 1 / 257), (1, 0.5), (2, 256 / 257), (1e6, 1)],
    ids=["half the usual", "usual", "twice", "very long"],
)
def test_the_credit_is_for_answers_that_are_longer_than_usual(
    times_usual: float, want: float
) -> None:
    bound = policy.overtake_bound_ms(1000 * times_usual, 0, 1000, 60_000)
    assert bound == pytest.approx(60_000 * want)


@pytest.mark.parametrize(
    ("rank_accuracy", "want"),
    [(1.0, 20_000), (0.9, 16_000), (0.5, 0), (0.1, 0), (None, 0)],
    ids=["always right", "good", "a coin", "reversed", "unknown"],
)
def test_the_credit_grows_with_the_accuracy_of_the_predictions(
    rank_accuracy: float | None, want: float
) -> None:
    credit = policy.wait_credit_ms(10_000, wait_factor=2, rank_accuracy=rank_accuracy)
    assert credit == pytest.approx(want)


def test_the_credit_is_at_most_half_the_distance_to_the_next_class() -> None:
    settings = QueueSettings()  # batch is ten minutes behind interactive
    room = policy.class_room_ms(settings, "interactive")
    assert room == 300_000
    assert policy.class_room_ms(settings, "batch") == math.inf
    credit = policy.wait_credit_ms(1e9, wait_factor=2, rank_accuracy=1, most_ms=room)
    assert credit == room


@given(ms=st.lists(lengths, min_size=2, max_size=20), k=st.floats(0.1, 100))
def test_jobs_accepted_together_are_served_shortest_first(ms: list[float], k: float) -> None:
    slacks = [policy.slack_ms(one, policy="sjf", overtake_factor=k) for one in ms]
    assert [x for _, x in sorted(zip(slacks, ms, strict=True))] == sorted(ms)


@pytest.mark.parametrize("name", ["fcfs", "shadow"])
@given(ms=lengths)
def test_fcfs_and_shadow_ignore_the_length(name: PolicyName, ms: float) -> None:
    assert policy.slack_ms(ms, policy=name, overtake_factor=3) == 0


def test_k_of_zero_is_fcfs() -> None:
    assert policy.slack_ms(5000, policy="sjf", overtake_factor=0) == 0


def test_a_class_is_an_offset_under_every_policy() -> None:
    assert policy.slack_ms(100, policy="sjf", overtake_factor=3, class_offset_ms=50) == 350
    assert policy.slack_ms(100, policy="fcfs", overtake_factor=3, class_offset_ms=50) == 50


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_an_invalid_length_is_refused_with_its_value(bad: float) -> None:
    with pytest.raises(ValueError, match="predicted_ms must be finite and >= 0"):
        policy.slack_ms(bad, policy="sjf", overtake_factor=3)


def prediction(p50: float, *, spread: float = 3.0) -> Prediction:
    return Prediction(
        model_version="v",
        p10_tokens=p50 / spread,
        p50_tokens=p50,
        p90_tokens=p50 * spread,
        mean_tokens=p50,
        rank_score=0,
    )


def test_without_a_spread_the_median_is_expected_and_cut_at_the_cap() -> None:
    sure = prediction(100, spread=1.0)
    assert expected_tokens(sure, median_tokens=5, max_tokens=None) == pytest.approx(100)
    assert expected_tokens(sure, median_tokens=5, max_tokens=16) == pytest.approx(16)


@pytest.mark.parametrize("cap", [None, 50, 200])
def test_the_expected_length_is_the_mean_of_the_cut_answer(cap: int | None) -> None:
    rng = random.Random(1)  # noqa: S311 - draws a sample, keeps no secret
    sigma = math.log(3) / NormalDist().inv_cdf(0.9)
    draws = [math.exp(rng.gauss(math.log(120), sigma)) for _ in range(200_000)]
    want = sum(min(x, cap or math.inf) for x in draws) / len(draws)
    got = expected_tokens(prediction(120), median_tokens=5, max_tokens=cap)
    assert got == pytest.approx(want, rel=0.02)


@given(short=st.floats(1, 5000), ratio=st.floats(1.01, 50), cap=st.integers(10, 1000))
def test_a_cap_does_not_make_predictions_above_it_equal(
    short: float, ratio: float, cap: int
) -> None:
    # min(p50, cap) did: it served 40 of 64 prompts in the order of arrival.
    a = expected_tokens(prediction(short), median_tokens=5, max_tokens=cap)
    b = expected_tokens(prediction(short * ratio), median_tokens=5, max_tokens=cap)
    assert a < b or b > 0.999 * cap
    assert b <= cap * (1 + 1e-9)


def test_without_a_prediction_the_median_of_the_queue_is_expected() -> None:
    assert expected_tokens(None, median_tokens=50, max_tokens=None) == 50
    assert expected_tokens(None, median_tokens=50, max_tokens=16) == 16


def test_an_unknown_class_is_an_error_that_names_it() -> None:
    assert policy.class_offset_ms(QueueSettings(), "batch") == 600_000
    with pytest.raises(KeyError, match="gold"):
        policy.class_offset_ms(QueueSettings(), "gold")
