"""The speed measurement: the shape of its rows, and that it pins one core."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("onnxruntime")

from lengthwise_predictor.model import LengthModel
from lengthwise_predictor.settings import BUNDLED
from lengthwise_training.compare.predictor_bench import Cell, bench, one_core, text_of


@pytest.mark.slow
def test_the_bench_has_a_row_for_each_length_and_batch() -> None:
    found = bench([BUNDLED], tokens=(16, 256), batches=(1, 3), rounds=1, calls=2, bert=False)
    at = {(r["tokens"], r["batch"]): r for r in found["rows"]}
    assert set(at) == {(16, 1), (16, 3), (256, 1), (256, 3)}
    for row in at.values():
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["per_s"] == pytest.approx(1000 * row["batch"] / row["p50_ms"])


def test_rounds_count_by_their_medians() -> None:
    cell = Cell("x", 16, 2, times_ms=[[1.0, 1.0, 90.0], [2.0], [3.0, 3.0]])
    assert cell.as_row()["p50_ms"] == 2.0
    assert cell.as_row()["per_s"] == 1000.0


def test_a_text_has_the_requested_tokens() -> None:
    model = LengthModel(BUNDLED, provider="cpu")
    for tokens in (16, 64, 256, 1024):
        assert tokens - 2 <= model.count_tokens(text_of(model, tokens)) <= tokens


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="not Linux")
def test_only_one_core_is_used_and_the_others_are_restored() -> None:
    before = os.sched_getaffinity(0)
    with one_core() as core:
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before
