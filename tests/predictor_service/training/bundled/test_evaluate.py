"""The scores of the bundled model's card, compared with cases known by hand; and the probe."""

from __future__ import annotations

import numpy as np
import pytest

from lengthwise_predictor.model import LengthModel
from lengthwise_predictor.settings import BUNDLED

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("tqdm")

from lengthwise_training.bundled import dataset_baselines, probe
from lengthwise_training.bundled.dataset import (
    Dataset,
    LengthRecord,
    build_dataset,
    validation_rows,
)
from lengthwise_training.bundled.dataset_scores import (
    ceiling,
    many_sampled,
    one_sample,
    pair_accuracy,
    score_dataset,
)
from lengthwise_training.bundled.evaluate import scores_table


def rows(count: int = 60, noise: int = 0) -> Dataset:
    """Two LLMs; prompt i is answered with about i tokens by one and 1000 + i by the other."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(1, count + 1):
        for llm, base in (("a", 0), ("b", 1000)):
            wobble = rng.integers(-noise, noise + 1, 4) if noise else [0] * 4
            lengths = tuple(max(1, base + i + int(w)) for w in wobble)
            records.append(LengthRecord(f"prompt number {i} " + "x" * i, llm, "s", lengths))
    return build_dataset(records)


def test_the_truth_itself_scores_full_marks() -> None:
    data = rows()
    truth = data.samples.mean(axis=1).astype(np.float64)
    got = score_dataset(data, truth, (truth - 1, truth + 1))
    assert (got.tau_b, got.pair_accuracy, got.spearman) == pytest.approx((1, 1, 1))
    assert (got.mae_tokens, got.coverage) == (0, 1)


def test_the_reverse_scores_minus_one() -> None:
    data = rows()
    got = score_dataset(data, -data.samples.mean(axis=1).astype(np.float64))
    assert got.tau_b == pytest.approx(-1)
    assert got.pair_accuracy == pytest.approx(0)


def test_knowing_only_the_llm_gives_no_rank_within_it() -> None:
    data = rows()
    got = score_dataset(data, np.where(data.llm_index == 0, 10.0, 1000.0))
    assert got.tau_b == 0
    assert got.pair_accuracy == pytest.approx(0.5)
    assert got.tau_b_pooled > 0.5


def test_coverage_is_of_every_sample() -> None:
    data = rows()
    samples = data.samples.astype(np.float64)
    low = samples.min(axis=1)
    high = np.where(np.arange(len(low)) % 2 == 0, samples.max(axis=1), low - 1)
    assert score_dataset(data, low, (low, high)).coverage == pytest.approx(0.5)


def test_pairs_that_tie_in_truth_are_left_out_and_predicted_ties_are_half_right() -> None:
    truth = np.array([1.0, 1.0, 2.0])
    assert pair_accuracy(np.array([5.0, 1.0, 9.0]), truth) == 1
    assert pair_accuracy(np.array([5.0, 1.0, 5.0]), truth) == pytest.approx(0.75)


def test_the_ceiling_does_not_use_the_scored_sample() -> None:
    data = rows(noise=10)
    scored = one_sample(data)
    want = (data.samples.sum(axis=1) - scored) / 3
    assert ceiling(data) == pytest.approx(want)
    assert 0.6 < score_dataset(data, ceiling(data)).tau_b < 1


def test_sources_with_one_sample_a_prompt_have_no_ceiling_and_are_left_out() -> None:
    once = [LengthRecord(f"q{i}", "a", "once", (i + 1,)) for i in range(5)]
    often = [LengthRecord(f"p{i}", "a", "often", (i + 1, i + 9)) for i in range(5)]
    assert set(many_sampled(build_dataset([*once, *often])).row_sources) == {"often"}
    assert set(many_sampled(build_dataset(once)).row_sources) == {
        "once"
    }  # there is no other source


def test_the_table_has_a_line_for_each_predictor() -> None:
    data = rows()
    truth = data.samples.mean(axis=1).astype(np.float64)
    got = scores_table(
        {"one": score_dataset(data, truth), "two": score_dataset(data, truth, (truth, truth))}
    )
    assert got.splitlines()[2].startswith("| one | 120 | 1.000 |")
    assert got.splitlines()[3].endswith("| 1.00 |")


def test_the_bag_of_words_learns_from_words() -> None:
    rng = np.random.default_rng(0)
    words = {"alpha": 20, "beta": 200, "gamma": 2000}
    records = [
        LengthRecord(
            f"tell me of {w}, please, number {i}",
            llm,
            "s",
            tuple(int(k * factor * f) + 1 for f in rng.uniform(0.9, 1.1, 3)),
        )
        for i in range(90)
        for w, k in [list(words.items())[i % 3]]
        for llm, factor in (("a", 1.0), ("b", 1.5))
    ]
    data = build_dataset(records)
    held = validation_rows(data)
    train, test = data.rows_where(~held), data.rows_where(held)
    assert score_dataset(test, dataset_baselines.constant(train, test)).tau_b == 0
    for baseline in (dataset_baselines.bag_of_words, dataset_baselines.bag_of_words_per_llm):
        assert score_dataset(test, baseline(train, test)).tau_b > 0.5


def test_the_bundled_model_ranks_everyday_short_prompts_below_long_ones() -> None:
    ranks = probe.ranked(LengthModel(BUNDLED, provider="cpu"), "smollm2-135m")
    assert len(ranks) == 40
    assert probe.in_order(ranks) > 0.9


def test_the_probe_counts_pairs() -> None:
    assert probe.in_order([(1, "short", "a"), (2, "long", "b"), (3, "short", "c")]) == 0.5
