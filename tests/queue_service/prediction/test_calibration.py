"""The correction of predicted lengths by the real ones."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise_contract.prediction import Prediction
from lengthwise_queue.prediction.accuracy import coverage, tau_b
from lengthwise_queue.prediction.calibration import IDENTITY, MIN_SAMPLES, shape_of
from lengthwise_queue.prediction.calibration_fit import fit, fit_all
from lengthwise_store.prediction_record import MeasuredAnswer, Quantiles, Shape, predictor_tag

TOKENS = st.floats(1.0, 1e5)
SHAPES = st.tuples(st.integers(0, 98), st.integers(0, 98))
ANY_ANSWERS = st.lists(
    st.builds(
        lambda middle, low, high, tokens, cap, shape: MeasuredAnswer(
            tokens=min(tokens, cap),
            priced=middle,
            raw=(middle / low, middle, middle * high),
            calibrated=(middle / low, middle, middle * high),
            predictor="v",
            max_tokens=cap,
            shape=shape,
        ),
        TOKENS,
        st.floats(1.0, 20.0),
        st.floats(1.0, 20.0),
        st.integers(1, 100_000),
        st.one_of(st.integers(1, 100_000), st.just(10**6)),
        SHAPES,
    ),
    max_size=300,
)


def around(middle: float) -> Quantiles:
    return (middle / 2, middle, middle * 2)


def stream(
    n: int,
    *,
    wrong_by: float = 1.0,
    spread: float = 0.54,
    cap: int | None = None,
    seed: int = 1,
    skill: float = 1.0,
) -> list[MeasuredAnswer]:
    """Answers `wrong_by` times as long as predicted; 0.54 is the spread of the predictions."""
    rng = random.Random(seed)  # noqa: S311 - a reproducible stream
    made = []
    for _ in range(n):
        middle = rng.lognormvariate(5, 0.8)
        centre = math.exp(5 + skill * (math.log(middle) - 5))
        real = round(centre * wrong_by * rng.lognormvariate(0, spread)) + 1
        made.append(
            MeasuredAnswer(
                tokens=real if cap is None else min(real, cap),
                priced=middle,
                raw=around(middle),
                calibrated=around(middle),
                predictor="v",
                max_tokens=cap,
            )
        )
    return made


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(ANY_ANSWERS, TOKENS, TOKENS, SHAPES)
def test_prompts_of_one_shape_keep_their_rank_and_quantiles_their_order(
    answers: list[MeasuredAnswer], one: float, other: float, shape: Shape
) -> None:
    fitted = fit(answers)
    low, high = sorted((one, other))
    p10, p50, p90 = fitted.quantiles(around(low), shape)
    assert 1 <= p10 <= p50 <= p90 <= math.exp(14.001) or fitted.samples < MIN_SAMPLES
    if math.log(high) - math.log(low) > 1e-6:
        assert fitted.centre(fitted.moved(math.log(low), shape)) < fitted.centre(
            fitted.moved(math.log(high), shape)
        )
    assert all(math.isfinite(q) for q in (p10, p50, p90))
    assert abs(fitted.moved(math.log(low), shape) - math.log(low)) < 1.2


def test_the_influence_of_the_prompts_length_is_learned() -> None:
    rng = random.Random(1)  # noqa: S311 - a reproducible stream
    seen = []
    for _ in range(256):
        chars = rng.randint(10, 4000)
        shape = shape_of("x" * chars)
        middle = rng.lognormvariate(5, 0.3)
        # The longer the prompt, the shorter this LLM's answer, which the predictor does not know.
        real = round(middle * (400 / chars) ** 0.5 * rng.lognormvariate(0, 0.3)) + 1
        raw = around(middle)
        seen.append(
            MeasuredAnswer(
                tokens=real, priced=middle, raw=raw, calibrated=raw, predictor="v", shape=shape
            )
        )
    fitted = fit(seen)
    brief, lengthy = shape_of("x" * 50), shape_of("x" * 3000)
    medians = [fitted.quantiles(around(150), shape)[1] for shape in (brief, lengthy)]
    assert medians[0] > 3 * medians[1]
    known = [(fitted.quantiles(a.raw, a.shape)[1], a.tokens) for a in seen if a.raw]
    assert (tau_b(known) or 0) > (tau_b((a.priced, a.tokens) for a in seen) or 0) + 0.2


def test_a_shape_without_influence_moves_nothing() -> None:
    rng = random.Random(2)  # noqa: S311 - a reproducible stream
    seen = [
        replace(a, shape=(rng.randint(20, 90), rng.randint(0, 40))) for a in stream(256, seed=3)
    ]
    fitted = fit(seen)
    assert fitted.shape is None


@pytest.mark.parametrize(
    ("text", "want"), [("", (0, 0)), ("a\nb\n", (16, 11)), ("x" * 16_384, (97, 0))]
)
def test_the_shape_of_a_prompt(text: str, want: Shape) -> None:
    assert shape_of(text) == want


def test_without_answers_nothing_is_corrected() -> None:
    prediction = Prediction(
        model_version="v", p10_tokens=1, p50_tokens=2, p90_tokens=3, mean_tokens=2, rank_score=0.5
    )
    assert IDENTITY.apply(prediction) is prediction
    assert fit(stream(MIN_SAMPLES - 1, wrong_by=9)).apply(prediction) is prediction


def test_a_predictor_that_is_right_is_hardly_corrected() -> None:
    fitted = fit(stream(256))
    for middle in (40, 150, 600):
        assert fitted.quantiles(around(middle))[1] == pytest.approx(middle, rel=0.25)
    assert fitted.below == pytest.approx(1, rel=0.35)
    assert fitted.above == pytest.approx(1, rel=0.35)


@pytest.mark.parametrize("wrong_by", [0.2, 4.0])
def test_a_constant_factor_is_found_and_corrected(wrong_by: float) -> None:
    fitted = fit(stream(256, wrong_by=wrong_by))
    assert fitted.quantiles(around(150))[1] == pytest.approx(150 * wrong_by, rel=0.25)
    assert fitted.factor == pytest.approx(wrong_by, rel=0.2)


@pytest.mark.parametrize("spread", [0.1, 0.54, 1.3], ids=["narrow", "right", "wide"])
def test_four_answers_of_five_are_within_the_calibrated_quantiles(spread: float) -> None:
    fitted = fit(stream(256, wrong_by=3, spread=spread))
    fresh = stream(2000, wrong_by=3, spread=spread, seed=2)
    after = coverage((fitted.quantiles(a.raw), a) for a in fresh if a.raw)
    assert after == pytest.approx(0.8, abs=0.08)


def test_the_predictions_of_a_predictor_without_skill_become_nearly_equal() -> None:
    fitted = fit(stream(256, skill=0.0))
    short, long = fitted.quantiles(around(30))[1], fitted.quantiles(around(1000))[1]
    assert short < long < 3.0 * short  # the predictor returned 33 times as long


def test_reversed_predictions_keep_their_rank_and_lose_their_differences() -> None:
    fitted = fit(stream(256, skill=-1.0))
    short, long = fitted.quantiles(around(30))[1], fitted.quantiles(around(1000))[1]
    assert short < long < 1.5 * short


def test_answers_cut_at_their_cap_do_not_count_as_short() -> None:
    # All lengths are as predicted, and most are cut at 60 of about 150 tokens.
    cut = stream(256, cap=60)
    assert sum(a.was_cut for a in cut) > 128
    as_if_whole = [
        MeasuredAnswer(
            tokens=a.tokens, priced=a.priced, raw=a.raw, calibrated=a.calibrated, predictor="v"
        )
        for a in cut
    ]
    assert fit(as_if_whole).quantiles(around(300))[1] < 150
    assert fit(cut).quantiles(around(300))[1] > 220


def test_where_all_answers_are_cut_no_prediction_becomes_shorter() -> None:
    fitted = fit(stream(256, cap=2))
    assert 299 <= fitted.quantiles(around(300))[1] < 3000


def test_a_request_for_several_answers_is_not_learned_from() -> None:
    several = [
        MeasuredAnswer(
            tokens=900, priced=300, raw=around(100), calibrated=around(100), predictor="v", count=3
        )
    ] * 100
    assert fit(several).samples == 0


def test_each_predictor_version_has_its_own_calibration() -> None:
    old = [
        MeasuredAnswer(
            tokens=500, priced=100, raw=around(100), calibrated=around(100), predictor="old"
        )
    ] * 100
    both = fit_all([*stream(100), *old])
    assert both.of("old").quantiles(around(100))[1] > 400
    assert both.of("v").quantiles(around(100))[1] == pytest.approx(100, rel=0.3)
    assert both.of("new") is IDENTITY
    assert predictor_tag("bundled-1") != predictor_tag("bundled-2")


def test_the_price_has_the_usual_spread_and_explain_has_that_of_the_job() -> None:
    # The predictor's spread of each job cost 0.016 of tau-b in the expected length.
    rng = random.Random(5)  # noqa: S311
    answers = []
    for _ in range(200):
        spread = math.exp(rng.uniform(0.2, 1.0))
        middle = math.exp(rng.gauss(5, 0.6))
        real = max(1, round(middle * math.exp(rng.gauss(0, 0.5))))
        raw = (middle / spread, middle, middle * spread)
        answers.append(MeasuredAnswer(tokens=real, priced=middle, raw=raw, predictor="v"))
    calibration = fit(answers)

    def prediction(spread: float) -> Prediction:
        return Prediction(
            model_version="v",
            p10_tokens=150 / spread,
            p50_tokens=150,
            p90_tokens=150 * spread,
            mean_tokens=160,
            rank_score=5,
        )

    narrow, wide = (calibration.apply(prediction(s)) for s in (1.3, 3.0))
    assert wide.p90_tokens > 1.5 * narrow.p90_tokens
    priced = [calibration.for_price(p) for p in (narrow, wide)]
    assert priced[0] == priced[1]
    assert priced[0].p10_tokens < priced[0].p50_tokens < priced[0].p90_tokens < wide.p90_tokens
    assert IDENTITY.for_price(narrow) is narrow
