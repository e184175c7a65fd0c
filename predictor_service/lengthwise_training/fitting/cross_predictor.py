"""A model that reads two prompts at once and predicts which answer is longer.

Such a model orders a list by inserting one prompt after the other (`insertion`), but a single
request needs a number. So it carries anchors: prompts of the training rows whose answers are evenly
spread in rank. A request's score is its position among them: the mean probability that its answer
is longer than an anchor's. That costs one pass of two texts for each anchor.

Called by `assembly`, `pair_trainer` and `runs.measure`.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from lengthwise_training.backbones.counts import standardise
from lengthwise_training.fitting.task_predictor import TaskPredictor, Trunk
from lengthwise_training.objectives.head import Head

#: An anchor is the prompt with the fewest tokens among this many near its rank, because it is read
#: with every request.
_NEAR = 8


@dataclass(frozen=True)
class Anchors:
    """The prompts that every prompt is compared with.

    Attributes:
        ids: int64, (anchors, seq), right-padded.
        features: float32, (anchors, counts), from `text_features`.
        centre: float32, (counts used,), mean of the counts; empty uses no counts.
        spread: float32, (counts used,), their standard deviation.
    """

    ids: Tensor
    features: Tensor
    centre: Tensor
    spread: Tensor


class CrossPredictor(TaskPredictor):
    """A `TaskPredictor` that learns a comparison."""

    def __init__(self, encoder: Any, trunk: Trunk, head: Head, anchors: Anchors) -> None:
        """`trunk`: reads the vector of a pair, and the difference of the texts' counts."""
        super().__init__(encoder, trunk, head)
        self.register_buffer("anchor_ids", anchors.ids)
        self.register_buffer("anchor_features", anchors.features)
        self.register_buffer("centre", anchors.centre)
        self.register_buffer("spread", anchors.spread)
        # A saved run's anchors have another length than those of an empty model.
        self._register_load_state_dict_pre_hook(self._resize)

    def _resize(self, state: dict[str, Tensor], prefix: str, *_: object) -> None:
        for name in ("anchor_ids", "anchor_features"):
            if prefix + name in state:
                setattr(self, name, torch.empty_like(state[prefix + name]))

    def read(self, ids: Tensor) -> Tensor:
        """Encode each text, (batch, seq), with each anchor: float32, (batch, anchors, width)."""
        count, seq = self.anchor_ids.shape
        first = ids.unsqueeze(1).expand(-1, count, -1).reshape(-1, ids.shape[1])
        second = self.anchor_ids.unsqueeze(0).expand(ids.shape[0], -1, -1).reshape(-1, seq)
        return self.encoder(first, second).view(ids.shape[0], count, -1)

    def margin(self, vectors: Tensor, features: Tensor, others: Tensor, llm: Tensor) -> Tensor:
        """Compute the logit that the first answer of a pair is longer: float32, (pairs,).

        Args:
            vectors: float32, (pairs, width), of the texts read together.
            features: float32, (pairs, counts), of the first text.
            others: float32, (pairs, counts), of the second text.
            llm: int64, (pairs,); 0 stands for the mean of all LLMs.
        """
        used = len(self.centre)
        first = standardise(features[:, :used], self.centre, self.spread)
        second = standardise(others[:, :used], self.centre, self.spread)
        return self.trunk(vectors, first - second, llm).squeeze(1)

    def scores(self, vectors: Tensor, features: Tensor, llm: Tensor) -> Tensor:
        """Compute the share of anchors whose answers are shorter: float32, (batch, 1).

        Args:
            vectors: float32, (batch, anchors, width), from `read`.
            features: float32, (batch, counts).
            llm: int64, (batch,).
        """
        count = self.anchor_ids.shape[0]
        own = features.unsqueeze(1).expand(-1, count, -1).reshape(-1, features.shape[1])
        anchors = self.anchor_features.unsqueeze(0).expand(features.shape[0], -1, -1)
        logits = self.margin(
            vectors.reshape(-1, vectors.shape[2]),
            own,
            anchors.reshape(-1, features.shape[1]),
            llm.unsqueeze(1).expand(-1, count).reshape(-1),
        )
        return torch.sigmoid(logits).view(-1, count).mean(1, keepdim=True)

    @override
    def forward(self, inputs: Tensor, features: Tensor, llm: Tensor) -> Tensor:
        """As `TaskPredictor.forward`, with one pass of two texts for each anchor."""
        raw = self.scores(self.read(inputs), features, llm)
        return self.calibration(self.decoded(raw), llm)


def blank_trunk(
    width: int, counts: int, llm_count: int, hidden: int, dropout: float, start: Tensor
) -> Trunk:
    """Build a trunk for pairs, whose input is already standardised."""
    return Trunk(width, torch.zeros(counts), torch.ones(counts), llm_count, hidden, dropout, start)


def choose_anchors(
    log_tokens: NDArray[np.float64], sizes: Sequence[int], count: int
) -> NDArray[np.int64]:
    """Choose prompts evenly spread in rank, preferring short texts: int64, (<= count,).

    Args:
        log_tokens: float64, (prompts,), mean log length of a prompt's answers.
        sizes: Tokens of each prompt.
        count: How many.
    """
    order = np.argsort(log_tokens, kind="stable")
    chosen: list[int] = []
    for place in (np.arange(count) + 0.5) / count * len(order):
        near = order[max(0, int(place) - _NEAR // 2) : int(place) + _NEAR // 2 + 1]
        left = [int(p) for p in near if p not in chosen]
        if left:
            chosen.append(min(left, key=lambda p: sizes[p]))
    return np.array(chosen, dtype=np.int64)
