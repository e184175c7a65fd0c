"""What the last answers show for the price of the next job."""

from __future__ import annotations

import pytest

from lengthwise_queue.prediction.quality import NO_STATISTICS, statistics_of
from lengthwise_store.prediction_record import MeasuredAnswer


def answers(count: int, *, predictor: str = "aaaa", right: bool = True) -> list[MeasuredAnswer]:
    """Answers of 10, 20, ... tokens, predicted exactly, or the other way round."""
    lengths = [10 * (n + 1) for n in range(count)]
    predicted = lengths if right else lengths[::-1]
    return [
        MeasuredAnswer(
            tokens=tokens, priced=priced, raw=(priced, priced, priced), predictor=predictor
        )
        for tokens, priced in zip(lengths, predicted, strict=True)
    ]


def test_few_answers_give_no_statistics() -> None:
    assert statistics_of(answers(31)) == NO_STATISTICS
    assert NO_STATISTICS.rank_accuracy("aaaa") is None


def test_the_usual_length_is_the_mean_predicted_length() -> None:
    unpredicted = [MeasuredAnswer(tokens=100_000, priced=None)] * 10
    assert statistics_of(answers(100) + unpredicted).usual_tokens == pytest.approx(505)


def test_each_predictor_is_judged_by_its_own_answers() -> None:
    seen = statistics_of(
        answers(40)
        + answers(40, predictor="bbbb", right=False)
        + answers(20, predictor="cccc", right=True)
    )
    assert seen.rank_accuracy("aaaa") == 1
    assert seen.rank_accuracy("bbbb") == 0
    assert seen.rank_accuracy("cccc") is None  # too few answers
