"""The heads: their quantiles, and their output before training."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("safetensors")

from lengthwise_training.objectives.config import TaskConfig  # noqa: E402
from lengthwise_training.objectives.head import QUANTILES  # noqa: E402
from lengthwise_training.objectives.heads.distribution import Histogram  # noqa: E402
from lengthwise_training.objectives.tasks import Task, build_head  # noqa: E402


def test_a_histograms_quantiles_are_read_between_its_edges() -> None:
    edges = np.array([1.0, 10.0, 100.0, 1000.0])
    head = Histogram(edges, np.array([5.0, 50.0, 500.0], dtype=np.float32), 0.0)
    decoded = head.decode(torch.tensor([[0.25, 0.5, 0.25]]).log())
    p50, below, above, mean = decoded[0].exp().tolist()
    assert p50 == pytest.approx(10**1.5, rel=1e-4)  # the middle of the middle bin, in logs
    assert p50 / below == pytest.approx(10**0.4, rel=1e-4)
    assert p50 * above == pytest.approx(10**2.6, rel=1e-4)
    assert mean == pytest.approx(0.25 * 5.5 + 0.5 * 55 + 0.25 * 550, rel=1e-4)


def test_a_quantile_beyond_what_rounding_left_is_the_last_bin() -> None:
    head = Histogram(np.array([1.0, 2.0, 4.0]), np.array([1.5], dtype=np.float32), 0.0)
    share = torch.tensor([[0.3, 0.6999]])
    assert float(head.quantile(share, 0.99999)) == pytest.approx(np.log(4.0), abs=1e-3)


@pytest.mark.parametrize("task", list(Task), ids=str)
def test_a_head_predicts_a_usual_length_before_it_has_learned(task: Task) -> None:
    lengths = np.random.default_rng(0).lognormal(5, 0.8, 4000).astype(np.float32)
    head = build_head(task, lengths, TaskConfig())
    middle = float(head.middle(head.start().view(1, -1)).detach().exp())
    assert float(np.quantile(lengths, 0.2)) < middle < float(np.quantile(lengths, 0.8))
    assert head.decode(head.start().view(1, -1)).shape == (1, 4)
    assert QUANTILES == (0.1, 0.5, 0.9)
