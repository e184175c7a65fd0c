"""Candidates for one prediction: each has its own calibration, and the better order is served."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.prediction import judge, quality
from lengthwise_queue.prediction.calibration_fit import fit_all
from lengthwise_queue.prediction.candidates import moved, served_raw, tag_of
from lengthwise_store.prediction_record import LearnedPrediction, MeasuredAnswer, Served

R = random.Random(7)  # noqa: S311


def answers(
    count: int, *, static: float, learned: float, served: Served = "static"
) -> list[MeasuredAnswer]:
    """Answers whose candidates know this share of the log length; below 0: its opposite."""
    found = []
    for _ in range(count):
        real = R.gauss(0, 1)
        guess = [5 + k * real + 0.7 * (1 - abs(k)) * R.gauss(0, 1) for k in (static, learned)]
        middle = math.exp(guess[0])
        found.append(
            MeasuredAnswer(
                tokens=max(1, round(math.exp(5 + real))),
                priced=middle,
                raw=(middle / 2, middle, middle * 2),
                predictor="ab12",
                learning=LearnedPrediction(learned=guess[1], served=served),
            )
        )
    return found


@pytest.mark.parametrize(
    ("static", "learned", "before", "want"),
    [
        (0.2, 0.7, "static", "learned"),
        (0.7, 0.2, "static", "static"),
        (0.7, 0.2, "learned", "static"),
        (0.7, 0.0, "learned", "static"),
        (0.5, -0.7, "learned", "static"),
        (0.0, 0.6, "learned", "learned"),
    ],
    ids=["better", "worse", "became worse", "random", "reversed", "stays better"],
)
def test_learned_is_served_only_while_it_orders_answers_about_as_well(
    static: float, learned: float, before: Served, want: Served
) -> None:
    assert judge.to_serve(answers(256, static=static, learned=learned), before) == want


def test_nothing_is_promoted_before_enough_answers_were_predicted() -> None:
    assert judge.to_serve(answers(60, static=0, learned=0.9), "static") == "static"
    old = [
        MeasuredAnswer(tokens=a.tokens, priced=a.priced, raw=a.raw, predictor=a.predictor)
        for a in answers(200, static=0, learned=0.9)
    ]
    assert judge.to_serve(old, "learned") == "static"


def test_each_candidate_is_calibrated_by_all_answers_whichever_was_served() -> None:
    one_sided = answers(200, static=0.3, learned=0.6, served="static")
    calibrations = fit_all(one_sided)
    learned = calibrations.of(tag_of("ab12", "learned"))
    assert learned.samples == calibrations.of("ab12").samples == 200
    real = sorted(a.tokens for a in one_sided)[100]
    middle = learned.quantiles((real / 2, real, real * 2))[1]
    assert middle == pytest.approx(real, rel=0.4)


def test_the_fallback_judges_what_was_served() -> None:
    good = answers(256, static=-0.9, learned=0.9, served="learned")
    bad = answers(256, static=0.9, learned=-0.9, served="learned")
    settings = QueueSettings()
    assert not quality.fallback_wanted(good, fallback=False, settings=settings)
    assert quality.fallback_wanted(bad, fallback=False, settings=settings)


def test_the_scores_compare_the_candidates_on_the_same_answers() -> None:
    some = answers(100, static=0.2, learned=0.8, served="learned")
    more = [MeasuredAnswer(tokens=5, priced=5.0, raw=(1, 5, 9), predictor="ab12")] * 100
    assert judge.scores([*some, *more]) == judge.scores(some)
    found = judge.scores(some)
    assert found.tau_served == found.taus["learned"]
    assert found.taus["young"] is None


def test_a_learned_prediction_has_the_usual_spread_and_not_the_predictors() -> None:
    low, middle, high = moved((10, 20, 60), math.log(40))
    assert middle == pytest.approx(40)
    assert low * high == pytest.approx(40**2)
    assert (low, middle, high) == moved((19, 20, 21), math.log(40))
    assert moved((10, 20, 60), None) == (10, 20, 60)
    answer = MeasuredAnswer(tokens=5, priced=9, raw=(1, 2, 4), learning=LearnedPrediction())
    assert served_raw(answer) == (1, 2, 4)


def test_a_promotion_does_not_make_the_served_order_look_bad() -> None:
    # Learned lengths were a tenth of the predictor's before calibration. The answers before and
    # after the promotion were compared as they were, and the tau of what was served was below that
    # of either.
    def scaled(one: MeasuredAnswer, served: Served) -> MeasuredAnswer:
        made = one.learning
        assert made is not None
        assert made.learned is not None
        moved_down = LearnedPrediction(learned=made.learned - 2.3, served=served)
        return replace(one, learning=moved_down)

    some = answers(200, static=0.4, learned=0.8)
    half = [scaled(a, "static" if i < 100 else "learned") for i, a in enumerate(some)]
    found = judge.scores(half)
    taus = found.taus["static"], found.tau_served, found.taus["learned"]
    assert None not in taus
    assert taus[0] < taus[1] < taus[2]  # type: ignore[operator]
