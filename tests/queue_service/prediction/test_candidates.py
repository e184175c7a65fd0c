"""Candidates for one prediction: each has its own calibration, and the better order is served."""

from __future__ import annotations

import math
import random

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


def test_a_moved_prediction_keeps_its_spread() -> None:
    assert moved((10, 20, 60), math.log(40)) == pytest.approx((20, 40, 120))
    assert moved((10, 20, 60), None) == (10, 20, 60)
    answer = MeasuredAnswer(tokens=5, priced=9, raw=(1, 2, 4), learning=LearnedPrediction())
    assert served_raw(answer) == (1, 2, 4)
