"""Profiles of lengths, compared with distributions whose parameters are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from lengthwise_training.data.characterize import hill, profile, variance_parts, write_profiles
from lengthwise_training.data.rows import LengthRow, LengthTable


def row(prompt: str, *samples: int, cut: bool = False, llm: str = "m") -> LengthRow:
    return LengthRow(prompt, llm, "s", samples, tuple(cut for _ in samples))


def test_the_parts_of_the_variance_are_recovered() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(1000.0, 100.0, 2000)
    samples = [c + rng.normal(0.0, 50.0, int(rng.integers(2, 8))) for c in centres]
    parts = variance_parts(samples, lambda s: s)
    assert parts is not None
    assert parts == pytest.approx((50.0, 100.0, 0.8), rel=0.05)
    assert variance_parts([np.array([5.0])] * 9, lambda s: s) is None


def test_a_pareto_tail_is_recovered() -> None:
    lengths = 10.0 * (1.0 + np.random.default_rng(0).pareto(2.5, 50_000))
    assert hill(lengths) == pytest.approx(2.5, rel=0.1)
    assert hill(lengths[:100]) is None


def test_a_profile_counts_its_rows() -> None:
    rows = [row("a" * (i + 1), 10 * (i + 1), 10 * (i + 1)) for i in range(9)]
    got = profile(LengthTable([*rows, row("b", 100, cut=True)]))
    assert (got.rows, got.prompts, got.samples, got.largest) == (10, 10, 19, 100)
    assert got.censored == pytest.approx(1 / 19)
    assert got.quantiles["p50"] == 50
    assert got.icc == pytest.approx(1.0)
    assert sum(got.histogram) == 19


@pytest.mark.slow
def test_tables_and_pictures_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [row(f"p{i}", i + 1, i + 2, llm=llm) for i in range(30) for llm in "xy"]
    found = write_profiles(LengthTable(rows), tmp_path)
    assert set(found["llm"]) == {"x", "y"}
    assert json.loads((tmp_path / "lengths.json").read_text()) == found
    assert "| x | 30 |" in (tmp_path / "lengths.md").read_text()
    for name in ("lengths_by_llm.png", "lengths_by_source.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
