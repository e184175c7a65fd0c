"""The map from a rank score to tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("safetensors")

from lengthwise_training.fitting.calibration import monotone_map  # noqa: E402


def test_a_score_becomes_tokens_without_a_tie() -> None:
    rng = np.random.default_rng(0)
    score = rng.normal(size=500)
    logs = 5 + np.floor(score) + rng.normal(size=500)
    knots, tokens = monotone_map(score, logs)
    assert (np.diff(knots) > 0).all()
    assert (np.diff(tokens) > 0).all()
    assert np.interp(-1.5, knots, tokens) == pytest.approx(3.0, abs=0.5)
    assert np.interp(1.5, knots, tokens) == pytest.approx(6.0, abs=0.5)


@pytest.mark.parametrize("score", [np.zeros(40), np.arange(40.0)], ids=["constant", "backwards"])
def test_a_score_without_information_still_maps(score: Any) -> None:
    knots, tokens = monotone_map(score, -np.arange(40.0))
    assert (np.diff(knots) > 0).all()
    assert (np.diff(tokens) > 0).all()
