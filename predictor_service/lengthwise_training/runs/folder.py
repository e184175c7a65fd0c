"""The files of a run's folder.

A run's folder holds config.json (all that the run depends on), checkpoint.pt (to continue after a
kill), weights.safetensors, metrics.json, probes.safetensors and tokenizer.json (what an export
needs), and one folder for each exported precision.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from lengthwise_training.data.examples import VALIDATION_FOLD
from lengthwise_training.export.onnx_export import PROBES, probe_inputs
from lengthwise_training.fitting.prepared import PreparedRows

WEIGHTS, METRICS, CARD = "weights.safetensors", "metrics.json", "MODEL_CARD.md"

#: Prompts of the validation rows that parity is measured on, beside the probes.
PARITY_TEXTS = 64


def save_backbone(prepared: PreparedRows, folder: Path) -> None:
    """Save what `rebuild_backbone` reads, and the inputs that parity is measured on."""
    prepared.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    shape = getattr(getattr(prepared.encoder, "model", None), "config", None)
    if shape is not None:
        shape.save_pretrained(folder / "backbone")
    inputs, features, llm = parity_inputs(prepared)
    save_file(
        {"inputs": inputs.contiguous(), "features": features.contiguous(), "llm": llm},
        folder / "probes.safetensors",
    )


def parity_inputs(prepared: PreparedRows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the inputs that parity is measured on: of validation rows, and of the probes."""
    examples = prepared.examples
    rows = np.flatnonzero(examples.folds == VALIDATION_FOLD)[:PARITY_TEXTS]
    prompts = examples.prompt_index[rows]
    if prepared.ids:
        texts = [*(examples.prompts[i] for i in prompts), *PROBES]
        return probe_inputs(texts, prepared.tokenizer, prepared.encoder, len(examples.llms))
    assert prepared.raw_vectors is not None  # noqa: S101  (narrows the type only)
    llm = torch.from_numpy(examples.llm_index[rows] + 1)
    return prepared.raw_vectors[prompts], prepared.features[prompts], llm
