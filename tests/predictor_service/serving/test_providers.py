"""The choice of an ONNX Runtime execution provider."""

from __future__ import annotations

import pytest

from lengthwise_predictor.errors import ModelUnusable
from lengthwise_predictor.model import choose_providers


@pytest.mark.parametrize(
    ("provider", "available", "want"),
    [
        ("auto", ["CPUExecutionProvider"], ["CPUExecutionProvider"]),
        (
            "auto",
            ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
            ["CUDAExecutionProvider", "CPUExecutionProvider"],
        ),
        (
            "cuda",
            ["CUDAExecutionProvider", "CPUExecutionProvider"],
            ["CUDAExecutionProvider", "CPUExecutionProvider"],
        ),
        ("cpu", ["CUDAExecutionProvider", "CPUExecutionProvider"], ["CPUExecutionProvider"]),
    ],
    ids=["no CUDA", "CUDA if available", "CUDA required", "CPU required"],
)
def test_the_best_available_provider_is_chosen(
    provider: str, available: list[str], want: list[str]
) -> None:
    assert choose_providers(provider, available) == want


def test_missing_cuda_ends_the_start_and_the_message_names_the_extra() -> None:
    with pytest.raises(ModelUnusable, match="`gpu` extra"):
        choose_providers("cuda", ["CPUExecutionProvider"])
