"""Pairs of finished jobs decide what a queue serves, and a worse prediction is never kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from tests.queue_service.learning.made_jobs import job

from lengthwise_learning.evidence import Evidence
from lengthwise_learning.promotion import Candidate, due, pair_accuracy, serves


def judged(
    *, static: float, learned: float, young: float | None = None, count: int = 256, seed: int = 0
) -> list[Evidence]:
    """Make jobs whose predictions have these correlations with the log length."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        made, log_tokens = job(rng), rng.normal(4, 1)

        def guess(skill: float, truth: float = log_tokens) -> float:
            return float(skill * (truth - 4) + (1 - skill**2) ** 0.5 * rng.normal())

        submission = dataclasses.replace(
            made.submission,
            static=guess(static),
            learned=guess(learned),
            young=None if young is None else guess(young),
        )
        tokens = max(1, round(float(np.exp(log_tokens))))
        out.append(Evidence(submission=submission, tokens=tokens))
    return out


def test_a_fit_is_due_at_32_jobs_then_as_they_grow_and_at_least_every_200() -> None:
    assert next(n for n in range(60) if due(0, n)) == 32
    assert not due(32, 44)
    assert due(32, 45)
    assert not due(5000, 5199)
    assert due(5000, 5200)


@pytest.mark.parametrize("before", list(Candidate))
def test_fewer_than_64_judged_jobs_serve_static(before: Candidate) -> None:
    assert serves([], before) is Candidate.STATIC
    few = judged(static=0.1, learned=0.9, count=63)
    assert serves(few, before) is Candidate.STATIC


def test_a_better_learned_prediction_is_served_and_a_worse_one_is_not() -> None:
    assert serves(judged(static=0.3, learned=0.8), Candidate.STATIC) is Candidate.LEARNED
    for before in Candidate:
        assert serves(judged(static=0.8, learned=0.3), before) is Candidate.STATIC


def test_the_last_256_jobs_alone_count() -> None:
    jobs = [*judged(static=0.1, learned=0.9, seed=1), *judged(static=0.9, learned=0.1, seed=2)]
    assert serves(jobs, Candidate.LEARNED) is Candidate.STATIC


def test_young_is_served_after_a_change_until_learned_is_as_good() -> None:
    changed = judged(static=0.3, learned=0.1, young=0.8)
    assert serves(changed, Candidate.LEARNED) is Candidate.YOUNG
    same = judged(static=0.3, learned=0.8, young=0.5)
    assert serves(same, Candidate.YOUNG) is Candidate.LEARNED


def test_the_choice_is_a_function_of_the_jobs_so_that_replicas_agree() -> None:
    jobs = judged(static=0.5, learned=0.6)
    assert {serves(list(jobs), Candidate.LEARNED) for _ in range(3)} == {
        serves(jobs, Candidate.LEARNED)
    }


def accuracy(guesses: Sequence[float], lengths: Sequence[int], cut: Sequence[bool]) -> float | None:
    rng = np.random.default_rng(0)
    made = [
        dataclasses.replace(job(rng), tokens=n, censored=c)
        for n, c in zip(lengths, cut, strict=True)
    ]
    return pair_accuracy(list(guesses), made)


def test_pairs_that_are_nearly_equal_do_not_count() -> None:
    lengths = [100, 110] * 30
    assert accuracy(list(range(60)), lengths, [False] * 60) is None


def test_a_cut_answer_makes_pairs_with_clearly_shorter_ones_only() -> None:
    lengths = [10] * 12 + [100] * 12
    right = [0.0] * 12 + [1.0] * 12
    assert accuracy(right, lengths, [False] * 12 + [True] * 12) == 1.0
    # The short ones were cut: their real lengths are not known to be shorter.
    assert accuracy(right, lengths, [True] * 12 + [False] * 12) is None


def test_equal_predictions_are_half_right() -> None:
    lengths = [10] * 12 + [100] * 12
    assert accuracy([1.0] * 24, lengths, [False] * 24) == 0.5
