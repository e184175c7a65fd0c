"""The rows as a backbone reads them: token ids or vectors.

Several tasks may share one, so that the texts are read once.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm

from lengthwise_predictor.features import normalise, text_features, window
from lengthwise_training.backbones.config import HIDDEN
from lengthwise_training.backbones.loading import load_backbone
from lengthwise_training.backbones.vectors import VectorEncoder
from lengthwise_training.data.examples import VALIDATION_FOLD, Examples
from lengthwise_training.fitting.config import FitConfig

#: Texts in a forward pass while the backbone does not learn.
READ_AT_ONCE = 32


@dataclass
class PreparedRows:
    """The rows as the model reads them.

    Attributes:
        examples: The rows.
        tokenizer: Of the backbone.
        encoder: The backbone as it was loaded; runs that change it work on a copy.
        ids: Token ids of each prompt, without padding ids, both ends of a long one; empty for
            vectors.
        features: float32, (prompts, len(FEATURE_NAMES)).
        vectors: float32, (prompts, width), the unchanged encoder's output for each prompt; None
            until it is needed.
        read_cpu_s: CPU time of computing `vectors`, s.
        raw_vectors: float32, (prompts, width), as collected from the served LLM, if they were.
    """

    examples: Examples
    tokenizer: Tokenizer
    encoder: Any
    ids: list[list[int]]
    features: Tensor
    vectors: Tensor | None = None
    read_cpu_s: float = 0.0
    raw_vectors: Tensor | None = None


def prepare(
    examples: Examples, config: FitConfig, hidden: NDArray[np.float32] | None = None
) -> PreparedRows:
    """Load the backbone and tokenise every prompt.

    Args:
        examples: The rows.
        config: Names the backbone.
        hidden: float32, (prompts, width), the served LLM's vectors, for the backbone `hidden`.

    Raises:
        ValueError: The backbone `hidden` without vectors, or vectors with another backbone.
    """
    if (config.backbone.name == HIDDEN) != (hidden is not None):
        raise ValueError(
            "--backbone hidden needs --hidden FILE.npz, and no other backbone takes it"
        )
    torch.manual_seed(config.seed)
    encoder, tokenizer = load_backbone(config.backbone)
    if hidden is not None:
        encoder = VectorEncoder(hidden.shape[1])
        learned = np.unique(examples.prompt_index[examples.folds > VALIDATION_FOLD])
        encoder.fit(torch.from_numpy(hidden[learned]))
    clean = [normalise(p) for p in examples.prompts]
    found = tokenizer.encode_batch_fast(clean, add_special_tokens=False)
    features = [text_features(p, len(e.ids)) for p, e in zip(clean, found, strict=True)]
    prepared = PreparedRows(
        examples=examples,
        tokenizer=tokenizer,
        encoder=encoder.eval().to(config.device) if hidden is None else encoder.eval(),
        ids=[window(e.ids, encoder.max_tokens) or [1] for e in found] if hidden is None else [],
        features=torch.from_numpy(np.stack(features)),
    )
    if hidden is not None:
        prepared.raw_vectors = torch.from_numpy(hidden)
        with torch.inference_mode():
            prepared.vectors = encoder(prepared.raw_vectors).clone()
    return prepared


def pad(prepared: PreparedRows, prompts: NDArray[np.int64]) -> Tensor:
    """Return the prompts' ids, right-padded: int64, (prompts, longest)."""
    ids = [prepared.ids[i] for i in prompts]
    out = torch.full((len(ids), max(map(len, ids))), prepared.encoder.pad_id)
    for row, row_ids in zip(out, ids, strict=True):
        row[: len(row_ids)] = torch.tensor(row_ids)
    return out


def unchanged_vectors(prepared: PreparedRows) -> Tensor:
    """Return the loaded encoder's vector of each prompt, computed once for all runs."""
    if prepared.vectors is None:
        began = time.process_time()
        prepared.vectors = read_all(prepared.encoder, prepared)
        prepared.read_cpu_s = time.process_time() - began
    return prepared.vectors


def read_all(
    encoder: Any, prepared: PreparedRows, prompts: NDArray[np.int64] | None = None
) -> Tensor:
    """Compute the vectors of all prompts: float32, (prompts, width).

    `prompts`: only these; the vectors of the others are 0.
    """
    needed = np.arange(len(prepared.ids)) if prompts is None else prompts
    needed = needed[np.argsort([len(prepared.ids[i]) for i in needed], kind="stable")]
    out = torch.zeros(len(prepared.ids), encoder.width)
    parts = np.array_split(needed, max(1, len(needed) // READ_AT_ONCE))
    shown = None if prompts is None else True
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        for part in tqdm(parts, desc="read texts", disable=shown, leave=False):
            out[part] = encoder(pad(prepared, part).to(device)).cpu()
    return out
