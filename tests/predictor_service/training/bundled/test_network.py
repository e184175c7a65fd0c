"""The head and the loss of the bundled model's network."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("safetensors")

from lengthwise_training.bundled.length_loss import length_loss, pair_loss  # noqa: E402
from lengthwise_training.bundled.network import LengthHead  # noqa: E402


def test_the_head_puts_quantiles_in_order_whatever_its_weights() -> None:
    torch.manual_seed(1)
    head = LengthHead(8, torch.tensor([3.0, 4.0, 5.0]), torch.ones(3))
    with torch.no_grad():
        head.shared.weight.mul_(500)
        head.own.weight.normal_(std=5.0)
    out = head(torch.randn(64, 8))
    assert (out[..., 0] <= out[..., 1]).all()
    assert (out[..., 1] <= out[..., 2]).all()


def test_the_loss_is_least_at_the_true_quantiles() -> None:
    samples = torch.linspace(3.0, 5.0, 101).view(1, 1, -1)
    known = torch.ones(1, 1, dtype=torch.bool)
    mean = float(samples.exp().mean().log())

    def loss(p10: float, p50: float, p90: float) -> float:
        out = torch.tensor([[[p10, p50, p90, mean]]])
        return float(length_loss(out, samples, known, pair_weight=0.0))

    best = loss(3.2, 4.0, 4.8)
    for worse in [(3.0, 4.0, 4.8), (3.4, 4.0, 4.8), (3.2, 4.2, 4.8), (3.2, 4.0, 4.6)]:
        assert loss(*worse) > best


def test_pairs_of_different_llms_or_of_the_unknown_do_not_count() -> None:
    length = torch.tensor([[1.0, 9.0], [2.0, 0.0]])
    known = torch.tensor([[True, True], [True, False]])
    each = torch.ones(2)
    right = pair_loss(torch.tensor([[0.0, 9.0], [1.0, 5.0]]), length, known, each)
    wrong = pair_loss(torch.tensor([[1.0, 9.0], [0.0, 5.0]]), length, known, each)
    elsewhere = pair_loss(torch.tensor([[0.0, -9.0], [1.0, 50.0]]), length, known, each)
    assert right < wrong
    assert right == elsewhere
