"""Scores, compared with cases known by hand."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("onnx")

from lengthwise_training.data.rows import LengthRow, LengthTable
from lengthwise_training.scoring.baselines import ceiling
from lengthwise_training.scoring.scores import PredictedLengths, pair_accuracy, score

WORDS = {"alpha": 20, "beta": 60, "gamma": 200, "delta": 600}


def row(prompt: str, llm: str, *samples: int, cut: bool = False) -> LengthRow:
    return LengthRow(prompt, llm, "s", samples, tuple(cut for _ in samples))


def some_rows(count: int, first: int = 0, llms: tuple[str, ...] = ("a", "b")) -> LengthTable:
    """A word fixes the length but for noise; LLM b answers twice as long."""
    rng = np.random.default_rng(first)
    rows = []
    for i in range(first, first + count):
        word, base = list(WORDS.items())[i % 4]
        for number, llm in enumerate(llms):
            noisy = base * (1 + number) * rng.uniform(0.8, 1.2, 3)
            rows.append(row(f"tell me about {word} again, {i}", llm, *(int(n) for n in noisy)))
    return LengthTable(rows)


def test_the_truth_scores_full_marks_and_its_reverse_none() -> None:
    table = LengthTable([row(f"p{i}", "m", 10 + i) for i in range(30)])
    truth = np.arange(10.0, 40.0)
    got = score(table, PredictedLengths(truth, truth - 1, truth + 1))
    assert got is not None
    assert (got.tau_b, got.pair_accuracy, got.spearman) == pytest.approx((1, 1, 1))
    assert (got.mae_tokens, got.within_50, got.coverage) == (0, 1, 1)
    assert got.pinball == pytest.approx(0.2 / 3)
    back = score(table, PredictedLengths(-truth))
    assert back is not None
    assert (back.tau_b, back.pair_accuracy) == pytest.approx((-1, 0))


def test_pairs_that_tie_in_truth_are_left_out_and_predicted_ties_are_half_right() -> None:
    truth = np.array([1.0, 1.0, 2.0])
    assert pair_accuracy(np.array([5.0, 1.0, 9.0]), truth) == pytest.approx(1)
    assert pair_accuracy(np.array([5.0, 1.0, 5.0]), truth) == pytest.approx(0.75)


def test_rank_is_within_each_llm() -> None:
    table = some_rows(40)
    got = score(table, PredictedLengths(np.where(table.llms == "a", 1.0, 2.0)))
    assert got is not None
    assert got.tau_b == 0
    assert got.tau_b_pooled is not None
    assert got.tau_b_pooled > 0.1


def test_an_answer_cut_at_the_cap_is_an_error_only_for_what_falls_short_of_it() -> None:
    table = LengthTable([row("p", "m", 100, cut=True), row("q", "m", 50)])
    got = score(
        table,
        PredictedLengths(np.array([400.0, 50.0]), np.array([1.0, 40.0]), np.array([2.0, 60.0])),
    )
    assert got is not None
    assert (got.mae_tokens, got.coverage, got.censored) == (0, 1, 0.5)
    short = score(table, PredictedLengths(np.array([70.0, 50.0])))
    assert short is not None
    assert short.mae_tokens == 15


def test_rows_of_one_sample_have_no_ceiling() -> None:
    table = LengthTable([row("p", "m", 5), row("q", "m", 5, 9)])
    predicted = ceiling(table)
    assert np.isnan(predicted.p50[0])
    assert predicted.p50[1] in (5, 9)
