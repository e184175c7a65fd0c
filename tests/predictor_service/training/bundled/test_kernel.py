"""The kernel regression and the topics, compared with cases known by hand."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("safetensors")

from lengthwise_training.bundled.kernel import (  # noqa: E402
    KernelConfig,
    fit_regression,
    fit_topics,
    pair_buckets,
    similarity,
)


def test_the_kernel_recalls_its_points_and_falls_back_to_the_mean_far_away() -> None:
    view = torch.tensor([[0.0], [1.0], [2.0]])
    target = np.array([[1.0, 0.0], [2.0, 0.0], [6.0, 4.0]])
    known = np.array([[True, False], [True, False], [True, True]])
    regression = fit_regression(view, target, known, KernelConfig(ridge=1e-6, own_ridge=1e-6))
    got = regression(torch.tensor([[0.0], [1.0], [2.0], [1000.0]])).numpy()
    assert got[:3, 0] == pytest.approx([1.0, 2.0, 6.0], abs=1e-3)
    assert got[3] == pytest.approx([3.0, 4.0], abs=1e-3)


def test_similarity_is_one_at_distance_zero_and_falls_with_distance() -> None:
    a = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    got = similarity(a[:1], a, a.square().sum(1))[0].tolist()
    assert got[0] == pytest.approx(1.0, abs=1e-3)
    assert got[0] > got[1] > got[2] > 0


def test_topics_in_the_network_match_their_singular_vectors() -> None:
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 40, rng.integers(2, 30)).tolist() for _ in range(60)]
    topics = fit_topics(texts, 50, 5)
    got = torch.cat([topics(torch.tensor([t])) for t in texts]).numpy()
    padded = topics(torch.tensor([texts[0] + [0] * 7])).numpy()
    assert padded[0] == pytest.approx(got[0], abs=1e-5)
    # By hand: 1 + log(count) times IDF, scaled to length 1, on the table's rows over IDF.
    table = topics.table.weight.numpy()
    for text, topic in zip(texts[:5], got[:5], strict=True):
        pairs = pair_buckets(torch.tensor(text[:-1]), torch.tensor(text[1:]), 50).tolist()
        ids, counts = np.unique([*text, *pairs], return_counts=True)
        weight = 1 + np.log(counts)
        length = np.sqrt((weight**2 * table[ids, 0]).sum())
        assert topic == pytest.approx(weight @ table[ids, 1:] / length, abs=1e-4)
