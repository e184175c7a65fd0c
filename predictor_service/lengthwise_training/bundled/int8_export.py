"""Writes the bundled model as the folder that serving loads: ONNX, tokenizer and card.

Called by `train`. The encoder computes in int8, which takes a third of the time on a CPU.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer
from torch import Tensor

from lengthwise_training.backbones.tables import SparseTable
from lengthwise_training.bundled.blended_predictor import BlendedPredictor

#: ONNX operator set; every ONNX Runtime since 1.13 runs it.
OPSET = 17

#: Largest allowed difference between network and ONNX file in float32, log tokens.
PARITY = 1e-3

_INPUTS = ("ids", "features", "llm")


@dataclass(frozen=True)
class Parity:
    """Largest differences on random inputs, log tokens.

    Attributes:
        float32: Between PyTorch and ONNX Runtime, before the encoder computes in int8.
        int8: Between PyTorch and the file that is shipped.
    """

    float32: float
    int8: float


def shrink(predictor: BlendedPredictor) -> BlendedPredictor:
    """Copy a predictor with its trained tables in few bits; the given one is not changed."""
    small = copy.deepcopy(predictor).eval()
    topics = small.view.topics
    topics.table = SparseTable(topics.table.weight.detach())
    return small


def export_int8(
    predictor: BlendedPredictor, tokenizer: Tokenizer, card: dict[str, Any], directory: Path
) -> dict[str, float]:
    """Write the folder, and compare the written model with the one it came from.

    Args:
        predictor: Trained.
        tokenizer: Without padding and truncation.
        card: The content of model.json; must hold what serving requires.
        directory: Created if it is missing.

    Returns:
        `Parity`, as a dictionary, as in the card.

    Raises:
        RuntimeError: The float32 file differs from the network by more than `PARITY`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    small = shrink(predictor)
    path = directory / "model.onnx"
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "float32.onnx"
        _to_onnx(small, plain)
        exact = difference(small, plain)
        if exact > PARITY:
            raise RuntimeError(
                f"the ONNX file differs from the network by {exact} log tokens; "
                "the export is wrong: look for an operator that ONNX defines otherwise"
            )
        quantize_dynamic(
            plain,
            path,
            nodes_to_quantize=_encoder_products(plain),
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    parity = asdict(Parity(float32=exact, int8=difference(small, path)))
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    (directory / "model.json").write_text(
        json.dumps({**card, "precision": "int8", "parity": parity}, indent=2, ensure_ascii=False)
        + "\n",
        encoding="utf-8",
    )
    return parity


def _to_onnx(predictor: BlendedPredictor, path: Path) -> None:
    inputs = sample_inputs(predictor, batch=2, seq=16, seed=0)
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated; its successor needs onnxscript.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            predictor,
            inputs,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(_INPUTS),
            output_names=["log_tokens"],
            dynamic_axes={
                "ids": {0: "batch", 1: "seq"},
                "features": {0: "batch"},
                "llm": {0: "batch"},
                "log_tokens": {0: "batch"},
            },
        )
    model = onnx.load(str(path))
    _fix_shapes(model.graph)
    onnx.save(model, str(path))


def _fix_shapes(graph: onnx.GraphProto) -> None:
    """Let the encoder's reshapes copy batch and length, in place: in ONNX, a 0 does that.

    PyTorch computes both again for each of them: some 60 tiny operators, a twentieth of the time.
    """
    made_by = {out: node for node in graph.node for out in node.output}
    for node in graph.node:
        if node.op_type != "Reshape" or "/encoder/" not in node.name:
            continue
        shape = made_by.get(node.input[1])
        if shape is None or shape.op_type != "Concat":
            continue
        sizes = [_constant(name, made_by, graph) for name in shape.input]
        if sizes[:2] != [None, None] or None in sizes[2:]:
            continue
        fixed = numpy_helper.from_array(
            np.array([0, 0, *sizes[2:]], dtype=np.int64), f"{node.name}/shape"
        )
        graph.initializer.append(fixed)
        node.input[1] = fixed.name
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    while idle := [node for node in graph.node if not used.intersection(node.output)]:
        for node in idle:
            graph.node.remove(node)
        used = {n for node in graph.node for n in node.input} | {o.name for o in graph.output}


def _constant(name: str, made_by: dict[str, onnx.NodeProto], graph: onnx.GraphProto) -> int | None:
    """Return the number that a name stands for, or None where it is computed."""
    node = made_by.get(name)
    if node is not None and node.op_type == "Constant":
        return int(numpy_helper.to_array(node.attribute[0].t).item())
    for known in graph.initializer:
        if known.name == name:
            return int(numpy_helper.to_array(known).item())
    return None


def _encoder_products(path: Path) -> list[str]:
    """Return the names of the encoder's products with weights."""
    graph = onnx.load(str(path)).graph
    constants = {i.name for i in graph.initializer}
    return [
        n.name
        for n in graph.node
        if n.op_type == "MatMul" and "/encoder/" in n.name and n.input[1] in constants
    ]


def difference(predictor: BlendedPredictor, path: Path) -> float:
    """Return the largest difference of network and ONNX file over several shapes, log tokens."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    longest = predictor.max_tokens
    for seed, (batch, seq) in enumerate([(1, 1), (1, 7), (3, 33), (8, longest)]):
        inputs = sample_inputs(predictor, batch=batch, seq=min(seq, longest), seed=seed)
        with torch.inference_mode():
            want = predictor(*inputs).numpy()
        feed = {name: t.numpy() for name, t in zip(_INPUTS, inputs, strict=True)}
        worst = max(worst, float(np.abs(want - session.run(None, feed)[0]).max()))
    return worst


def sample_inputs(
    predictor: BlendedPredictor, *, batch: int, seq: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return random inputs of the right shapes, the last row half padding: ids, features, llm."""
    rng = torch.Generator().manual_seed(seed)
    network = predictor.network
    ids = torch.randint(1, predictor.view.topics.vocabulary, (batch, seq), generator=rng)
    if seq > 1:
        ids[-1, (seq + 1) // 2 :] = 0
    noise = torch.randn(batch, len(network.centre), generator=rng)
    llm = torch.randint(0, 1 + len(predictor.served), (batch,), generator=rng)
    return ids, network.centre + network.spread * noise, llm
