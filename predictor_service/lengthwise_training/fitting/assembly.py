"""Builds the model of a run, before its first step or for saved weights.

Called by `fit` and `runs.run`.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from lengthwise_predictor.features import FEATURE_NAMES
from lengthwise_training.backbones.config import HIDDEN, TINY
from lengthwise_training.backbones.loading import rebuild_backbone
from lengthwise_training.data.examples import VALIDATION_FOLD
from lengthwise_training.fitting.config import FitConfig
from lengthwise_training.fitting.cross_predictor import (
    Anchors,
    CrossPredictor,
    blank_trunk,
    choose_anchors,
)
from lengthwise_training.fitting.prepared import PreparedRows, pad
from lengthwise_training.fitting.task_predictor import TaskPredictor, Trunk
from lengthwise_training.objectives.head import Head
from lengthwise_training.objectives.tasks import build_head


def untrained(prepared: PreparedRows, config: FitConfig) -> TaskPredictor:
    """Build the model of a run before its first step."""
    torch.manual_seed(config.seed)
    examples = prepared.examples
    learn = examples.rows_where(examples.folds > VALIDATION_FOLD)
    if len(learn) < 2 or not (examples.folds == VALIDATION_FOLD).any():
        raise ValueError(
            f"{len(examples)} rows are too few to learn from and to validate on; give more"
        )
    encoder = copy.deepcopy(prepared.encoder)
    if config.backbone.name not in (TINY, HIDDEN):
        encoder.requires_grad_(False)
        if config.tuned:
            encoder.requires_grad_(True)
            # A few thousand rows are too few to learn single words from.
            encoder.model.get_input_embeddings().requires_grad_(False)
    seen = prepared.features[np.unique(examples.prompt_index[examples.folds > VALIDATION_FOLD])]
    if not config.counts:
        seen = seen[:, :0]
    head = build_head(config.task, learn.lengths(), config.numbers)
    centre, spread = seen.mean(0), seen.std(0).clamp(min=0.01)
    anchors = None
    if config.objective.reads_pairs:
        anchors = _anchors(prepared, config, centre, spread)
    return assemble(encoder, head, config, centre, spread, examples.llms, anchors)


def _anchors(prepared: PreparedRows, config: FitConfig, centre: Tensor, spread: Tensor) -> Anchors:
    if not prepared.ids:
        raise ValueError(
            "pair-cross-encoder reads two texts at once, and --backbone hidden has none"
        )
    learn = prepared.examples.rows_where(prepared.examples.folds > VALIDATION_FOLD)
    logs = (np.log(learn.tokens) * learn.known).sum(1) / learn.known.sum(1)
    count = np.bincount(learn.prompt_index)
    means = np.bincount(learn.prompt_index, weights=logs) / count
    place = {prompt: i for i, prompt in enumerate(prepared.examples.prompts)}
    prompts = np.array([place[p] for p in learn.prompts])
    sizes = [len(prepared.ids[i]) for i in prompts]
    chosen = prompts[choose_anchors(means, sizes, config.numbers.anchors)]
    return Anchors(pad(prepared, chosen), prepared.features[chosen], centre, spread)


def assemble(
    encoder: Any,
    head: Head,
    config: FitConfig,
    centre: Tensor,
    spread: Tensor,
    llms: list[str],
    anchors: Anchors | None = None,
) -> TaskPredictor:
    """Build a model from its parts.

    Args:
        encoder: Reads the text.
        head: Of the task.
        config: Of the run.
        centre: float32, (counts used,).
        spread: float32, (counts used,).
        llms: Learned.
        anchors: Of a cross-encoder.
    """
    if anchors is not None:
        pairs = blank_trunk(
            encoder.width, len(centre), len(llms), config.hidden, config.dropout, head.start()
        )
        return CrossPredictor(encoder, pairs, head, anchors)
    trunk = Trunk(
        encoder.width, centre, spread, len(llms), config.hidden, config.dropout, head.start()
    )
    return TaskPredictor(encoder, trunk, head)


def skeleton(config: FitConfig, folder: Path, width: int, llms: list[str]) -> tuple[Any, Tokenizer]:
    """Build a model in the shape of a run's saved weights, and load its tokenizer."""
    encoder, tokenizer = rebuild_backbone(config.backbone, folder, width)
    # Any lengths work: the saved weights hold all that depends on them.
    head = build_head(config.task, np.arange(1, 100, dtype=np.float32), config.numbers)
    blank = torch.zeros(len(FEATURE_NAMES) if config.counts else 0)
    anchors = None
    if config.objective.reads_pairs:
        k = config.numbers.anchors  # the saved weights may hold fewer, and replace these
        empty = torch.zeros(k, 1, dtype=torch.int64), torch.zeros(k, len(FEATURE_NAMES))
        anchors = Anchors(*empty, blank, blank + 1)
    return assemble(encoder, head, config, blank, blank + 1, llms, anchors), tokenizer
