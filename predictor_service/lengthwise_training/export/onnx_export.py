"""Writes a trained task as the folder that serving loads, in float32, float16 or int8.

Called by `runs.run`. The written file is compared with the PyTorch model on real texts, one at a
time; the difference is stored and printed.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer
from torch import Tensor, nn

from lengthwise_predictor.features import FEATURE_NAMES, normalise, text_features, window
from lengthwise_training.backbones.vectors import VectorEncoder
from lengthwise_training.fitting.task_predictor import TaskPredictor

#: ONNX operator set; every ONNX Runtime since 1.13 runs it.
OPSET = 17


class Precision(StrEnum):
    """The precision of the encoder; the rest is always float32."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


#: Largest allowed difference to PyTorch, log tokens; int8 has no limit, its loss is expected.
ALLOWED = {Precision.FP32: 1e-3, Precision.FP16: 0.1}

#: Their names in a card.
CARD_PRECISION = {
    Precision.FP32: "float32",
    Precision.FP16: "float16",
    Precision.INT8: "int8",
}

#: Texts of many kinds that parity is measured on, beside the run's own.
PROBES = (
    "Hi",
    "What is the capital of France?",
    "Write a 1000-word essay about the causes of the First World War.",
    "def f(x):\n    return x  # finish this function, please\n" * 8,
    "word " * 2000,
    "Qu'est-ce que c'est? Что это такое? これは何ですか",
)


class ParityError(RuntimeError):
    """The written file does not compute what the model computes; it must not be served."""


def export_onnx(
    predictor: TaskPredictor,
    tokenizer: Tokenizer,
    card: dict[str, Any],
    folder: Path,
    precision: Precision,
    inputs: tuple[Tensor, Tensor, Tensor],
) -> dict[str, Any]:
    """Write model.onnx, tokenizer.json and model.json.

    Args:
        predictor: Trained and calibrated.
        tokenizer: Without padding and truncation.
        card: The content of model.json, without what is measured here.
        folder: Created if it is missing.
        precision: Of the encoder.
        inputs: Real ones, from `probe_inputs` or a run's vectors; parity is measured on them.

    Returns:
        The card as written; `parity_max` and `parity_mean` are in log tokens, over all outputs.

    Raises:
        ParityError: float32 or float16 differ by more than `ALLOWED`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    predictor = predictor.eval()
    path = folder / "model.onnx"
    if precision is Precision.INT8:
        with tempfile.TemporaryDirectory() as scratch:
            exact = Path(scratch) / "float32.onnx"
            trace(predictor, inputs, exact)
            quantise(exact, path)
    else:
        trace(halved(predictor) if precision is Precision.FP16 else predictor, inputs, path)
    worst, mean = difference(predictor, path, inputs)
    if worst > ALLOWED.get(precision, np.inf) or not np.isfinite(worst):
        raise ParityError(
            f"the {precision} file differs from PyTorch by {worst:.4f} log tokens (at most "
            f"{ALLOWED.get(precision)} is allowed); export it as fp32, or look for an operator "
            "that ONNX defines otherwise"
        )
    card = {
        **card,
        "reads": input_name(predictor),
        "feature_names": list(FEATURE_NAMES),
        "max_tokens": predictor.encoder.max_tokens,
        "pad_id": predictor.encoder.pad_id,
        "precision": CARD_PRECISION[precision],
        "parity_max": worst,
        "parity_mean": mean,
        "bytes": path.stat().st_size,
    }
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    (folder / "model.json").write_text(text, encoding="utf-8")
    return card


def input_name(predictor: TaskPredictor) -> str:
    """Return the name of the graph's first input: `ids` of a text, or `hidden` vectors."""
    return "hidden" if isinstance(predictor.encoder, VectorEncoder) else "ids"


def trace(predictor: TaskPredictor, inputs: tuple[Tensor, Tensor, Tensor], path: Path) -> None:
    """Write the float32 graph, for any number and length of texts."""
    first = input_name(predictor)
    axes = {name: {0: "batch"} for name in (first, "features", "llm", "log_tokens")}
    if first == "ids":
        axes["ids"][1] = "seq"
    few = tuple(t[-3:] for t in inputs)
    with warnings.catch_warnings(), torch.inference_mode():
        # The TorchScript exporter is deprecated; its successor needs onnxscript.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            predictor,
            few,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[first, "features", "llm"],
            output_names=["log_tokens"],
            dynamic_axes=axes,
        )


class HalfEncoder(nn.Module):
    """An encoder that computes in float16 and returns float32.

    The graph's own converters also round the last numbers, which ties answers that were not tied.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder.half()
        self.max_tokens, self.pad_id = encoder.max_tokens, encoder.pad_id

    def forward(self, ids: Tensor, second: Tensor | None = None) -> Tensor:
        """Encode texts, float32, (batch, width)."""
        return self.encoder(ids, second).to(torch.float32)


def halved(predictor: TaskPredictor) -> TaskPredictor:
    """Copy a predictor with its encoder in float16; vectors from outside stay as they are."""
    small = copy.deepcopy(predictor)
    if not isinstance(small.encoder, VectorEncoder):
        small.encoder = HalfEncoder(small.encoder)
    return small.eval()


def quantise(exact: Path, path: Path) -> None:
    """Write the graph with the encoder's products and tables in int8."""
    graph = onnx.load(str(exact))
    encoder_nodes = [n.name for n in graph.graph.node if "/encoder/" in n.name]
    # The quantiser logs advice on the root logger to simplify the graph first; it gains nothing.
    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(
            exact,
            path,
            nodes_to_quantize=encoder_nodes,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    finally:
        logging.disable(logging.NOTSET)


def difference(
    predictor: TaskPredictor, path: Path, inputs: tuple[Tensor, Tensor, Tensor]
) -> tuple[float, float]:
    """Compare PyTorch and the file text by text: largest and mean difference, log tokens."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    first = input_name(predictor)
    gaps: list[NDArray[np.float64]] = []
    with torch.inference_mode():
        for row in range(len(inputs[0])):
            row_inputs = [t[row : row + 1] for t in inputs]
            want = predictor(*row_inputs).double().numpy()
            feed = dict(
                zip((first, "features", "llm"), (t.numpy() for t in row_inputs), strict=True)
            )
            # A task without counts leaves that input out of its graph.
            got = session.run(None, {k: v for k, v in feed.items() if k in names})[0]
            gaps.append(np.abs(want - got))
    found = np.concatenate(gaps)
    return float(found.max()), float(found.mean())


def probe_inputs(
    texts: Sequence[str], tokenizer: Tokenizer, encoder: Any, llm_count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, counts and LLM rows of some texts; the LLMs take turns, "any LLM" first."""
    found = tokenizer.encode_batch_fast([normalise(t) for t in texts], add_special_tokens=False)
    ids = [window(e.ids, encoder.max_tokens) or [1] for e in found]
    out = torch.full((len(ids), max(map(len, ids))), encoder.pad_id)
    for row, row_ids in zip(out, ids, strict=True):
        row[: len(row_ids)] = torch.tensor(row_ids)
    features = [text_features(normalise(t), len(e.ids)) for t, e in zip(texts, found, strict=True)]
    llm = torch.arange(len(ids)) % (1 + llm_count)
    return out, torch.from_numpy(np.stack(features)), llm
