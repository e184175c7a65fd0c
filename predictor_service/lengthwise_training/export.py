"""Writes a trained network as the folder that serving loads: ONNX, tokenizer and card.

Called by train; `python -m lengthwise_training.export` is not a program of its own, because a
network without the numbers measured on it is not worth shipping.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from lengthwise_training.network import LengthNetwork

#: ONNX operator set; every ONNX Runtime since 1.13 runs it.
OPSET = 17


class _Int8Table(nn.Module):
    """An embedding table as int8 with one float16 scale a row: a quarter of the size."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127.0
        self.register_buffer("scale", scale.half())
        self.register_buffer(
            "codes", (weight / self.scale.float()).round().clamp(-127, 127).to(torch.int8)
        )

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.codes[ids].float() * self.scale[ids].float()
        return out


def quantise(network: LengthNetwork) -> None:
    """Replace the token embeddings, nearly all of the network's size, by an int8 table, in place."""
    network.encoder.tokens = _Int8Table(network.encoder.tokens.weight.detach())
    if network.encoder.bigrams is not None:
        network.encoder.bigrams = _Int8Table(network.encoder.bigrams.weight.detach())


def export(
    network: LengthNetwork, tokenizer: Tokenizer, card: dict[str, Any], directory: Path
) -> float:
    """Quantise, write the folder, and hold the written model to the network it came from.

    Args:
        network: Trained; its embeddings are quantised in place.
        tokenizer: Neither pads nor cuts.
        card: What model.json says; must hold what serving asks of it.
        directory: Made if it is missing.

    Returns:
        The largest difference between the ONNX model and the (quantised) network, log tokens.

    Raises:
        RuntimeError: They differ by more than 0.001.
    """
    directory.mkdir(parents=True, exist_ok=True)
    network.eval()
    quantise(network)
    ids, features, llm = sample_inputs(network, batch=2, seq=16, seed=0)
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated; its successor needs onnxscript.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (ids, features, llm),
            str(directory / "model.onnx"),
            dynamo=False,
            opset_version=OPSET,
            input_names=["ids", "features", "llm"],
            output_names=["log_tokens"],
            dynamic_axes={
                "ids": {0: "batch", 1: "seq"},
                "features": {0: "batch"},
                "llm": {0: "batch"},
                "log_tokens": {0: "batch"},
            },
        )
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    difference = parity(network, directory / "model.onnx")
    card = {**card, "parity_max_difference_log_tokens": difference}
    (directory / "model.json").write_text(
        json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    if difference > 1e-3:
        raise RuntimeError(
            f"{directory / 'model.onnx'} differs from the network by {difference} log tokens; "
            "the export is wrong: look for an operator that ONNX defines otherwise"
        )
    return difference


def parity(network: LengthNetwork, path: Path) -> float:
    """Largest difference between network and ONNX file over several shapes, log tokens."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for seed, (batch, seq) in enumerate([(1, 1), (1, 7), (3, 33), (8, network.config.max_tokens)]):
        inputs = sample_inputs(network, batch=batch, seq=seq, seed=seed)
        with torch.no_grad():
            want = network(*inputs).numpy()
        got = session.run(
            None, {n: t.numpy() for n, t in zip(("ids", "features", "llm"), inputs, strict=True)}
        )[0]
        worst = max(worst, float(np.abs(want - got).max()))
    return worst


def sample_inputs(
    network: LengthNetwork, *, batch: int, seq: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Random inputs of the right shapes, the last row half padding: ids, features, llm."""
    rng = torch.Generator().manual_seed(seed)
    config = network.config
    ids = torch.randint(1, config.vocabulary, (batch, seq), generator=rng)
    if seq > 1:
        ids[-1, (seq + 1) // 2 :] = 0
    features = network.centre + network.spread * torch.randn(
        batch, config.feature_count, generator=rng
    )
    llm = torch.randint(0, config.llm_count, (batch,), generator=rng)
    return ids, features, llm
