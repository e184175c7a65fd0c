"""Batches from predicted distributions of lengths."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lengthwise_lab.reproductions.problen.search import (
    answer_quantiles,
    corrected_search,
    given_the_prompt,
    published_search,
    quantiles,
    smoothed,
)
from lengthwise_worker.engines.transformers.sequence_scheduling import PlannedBatch


def at(*lengths: int, longest: int = 200) -> NDArray[np.float64]:
    """Return one row for each length, which is certain."""
    found = np.zeros((len(lengths), longest + 1))
    found[np.arange(len(lengths)), lengths] = 1
    return found


@pytest.mark.parametrize(("tokens", "want"), [(5, 0.57), (16, 0.70), (32, 0.85), (1_000, 0.78)])
def test_the_published_smoothing_loses_mass_at_the_ends(tokens: int, want: float) -> None:
    counts = at(tokens, longest=1_024)
    assert smoothed(counts, keep_mass=False).sum() == pytest.approx(want, abs=0.005)
    assert smoothed(counts, keep_mass=True).sum() == pytest.approx(1)


def test_the_published_quantile_of_a_distribution_that_rounding_keeps_below_is_the_prompt() -> None:
    short_of_mass = at(50) * 0.9
    assert quantiles(short_of_mass, 0.95, np.array([30])).tolist() == [31]
    assert answer_quantiles(given_the_prompt(short_of_mass, np.array([30])), 0.95).tolist() == [20]


def test_a_distribution_is_conditioned_on_being_longer_than_the_prompt() -> None:
    half_before_the_prompt = (at(10) + at(60)) / 2
    got = given_the_prompt(half_before_the_prompt, np.array([40]))
    assert got[0, 20] == pytest.approx(1)
    assert got.sum() == pytest.approx(1)


def test_a_prompt_longer_than_the_whole_prediction_leaves_the_longest_answer() -> None:
    got = given_the_prompt(at(10), np.array([199]))
    assert got[0, -1] == 1


def everything_at(
    threshold: float, answers: NDArray[np.float64], few_fail: float
) -> list[PlannedBatch]:
    cap = 10 if threshold < few_fail else 100
    return [PlannedBatch(members=tuple(range(len(answers))), cap=cap)]


def test_the_search_lets_the_one_long_answer_fail_when_the_others_are_short() -> None:
    # 15 of 16 certainly take 10 tokens; with a cap of 10 one is resumed for 90 more.
    answers = at(*[10] * 15, 100)

    def plan(threshold: float) -> list[PlannedBatch]:
        return everything_at(threshold, answers, few_fail=0.5)

    assert (
        corrected_search(
            answers, plan, base=16, step_s=lambda size: 1.0 * size, thresholds=(0.2, 0.9)
        )
        == 0.2
    )


def test_the_search_lets_nothing_fail_when_a_step_costs_the_same_at_any_size() -> None:
    answers = at(*[10] * 8, *[100] * 8)

    def plan(threshold: float) -> list[PlannedBatch]:
        return everything_at(threshold, answers, few_fail=0.5)

    # Eight failures in batches of four take twice 90 steps.
    seconds = corrected_search(
        answers, plan, base=4, step_s=lambda size: 1.0, thresholds=(0.2, 0.9)
    )
    assert seconds == 0.9


def test_the_published_search_counts_the_longest_of_all_rests_for_each_second_batch() -> None:
    # 32 of 64 fail, of which 31 lack one token and one lacks 90: two second batches, and both are
    # counted with 90 steps; so no failures look much cheaper.
    answers = at(*[10] * 32, *[11] * 31, 100)

    def plan(threshold: float) -> list[PlannedBatch]:
        return everything_at(threshold, answers, few_fail=0.5)

    assert published_search(answers, plan, base=16, thresholds=(0.2, 0.9)) == 0.9
