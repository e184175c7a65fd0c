"""Heads on classes of length: cross-entropy, the class number, and a cumulative link."""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from lengthwise_training.objectives.config import TaskConfig
from lengthwise_training.objectives.head import Head, LengthBatch, RankScores
from lengthwise_training.objectives.losses import (
    class_nll,
    cumulative_link,
    overshoot_free,
    sample_mean,
)
from lengthwise_training.objectives.objective import Objective, OwnDecision


class Classed(Head):
    """Base of the heads on classes: their bounds, and the usual length in each."""

    def __init__(self, bounds: NDArray[np.float64], lengths: NDArray[np.float32]) -> None:
        """Cut the training lengths into classes.

        Args:
            bounds: float64, (classes - 1,), rising; a length on a bound is above it.
            lengths: float32, the training samples, tokens.
        """
        super().__init__()
        label = np.searchsorted(bounds, lengths, side="right")
        edges = [1.0, *bounds.tolist(), float(max(lengths.max(), bounds[-1] + 1))]
        # An empty class predicts its middle.
        medians = [
            float(np.median(lengths[label == c]))
            if (label == c).any()
            else math.sqrt(max(edges[c], 1.0) * edges[c + 1])
            for c in range(len(bounds) + 1)
        ]
        counts = np.bincount(label, minlength=len(medians)).astype(np.float64)
        self.classes = len(medians)
        self.register_buffer("bounds", torch.tensor(bounds, dtype=torch.float32))
        self.register_buffer("log_medians", torch.tensor(medians, dtype=torch.float32).log())
        self.register_buffer("share", torch.tensor(counts / counts.sum(), dtype=torch.float32))

    def label(self, tokens: Tensor) -> Tensor:
        """Return the class of each length, int64, of the shape of `tokens`."""
        return torch.searchsorted(self.bounds, tokens.contiguous(), right=True)


class Classes(Classed):
    """Classes by cross-entropy; the middle is the mean log median, weighted by the classes' shares.

    The published systems with this idea decide by the likeliest class alone, which ties nearly all
    answers when the classes are wide. `likeliest` does the same, for comparison.
    """

    def __init__(
        self, bounds: NDArray[np.float64], lengths: NDArray[np.float32], *, weighted: bool
    ) -> None:
        super().__init__(bounds, lengths)
        self.outputs = self.classes
        weight = 1.0 / self.share.clamp(min=1e-3) if weighted else torch.ones(self.classes)
        self.register_buffer("weight", weight / (weight * self.share).sum())

    @override
    def start(self) -> Tensor:
        return (self.share * self.weight).clamp(min=1e-4).log()

    @override
    def loss(self, raw: Tensor, batch: LengthBatch) -> Tensor:
        return class_nll(raw, self.label(batch.tokens), batch.cut, batch.known, self.weight)

    def likeliest(self, raw: Tensor) -> Tensor:
        """Return the log median of the likeliest class, float32, (batch,)."""
        return self.log_medians[raw.argmax(1)]

    @override
    def own_scores(
        self, raw: Tensor, tokens: Tensor, known: Tensor, score: Callable[[Tensor], RankScores]
    ) -> dict[str, float]:
        tau_b, pairs = score(self.likeliest(raw))
        right = self.label(tokens) == raw.argmax(1).unsqueeze(1)  # (rows, n)
        return {
            f"{_LIKELIEST.key}_tau_b": tau_b,
            f"{_LIKELIEST.key}_pairs": pairs,
            "class_accuracy": float(right[known].double().mean()),
        }

    @override
    def middle(self, raw: Tensor) -> Tensor:
        # This undoes the effect of the loss weights on the shares.
        return functional.softmax(raw - self.weight.log(), dim=-1) @ self.log_medians


class ClassIndex(Classed):
    """The class number as a quantity; between two numbers, it is between two medians."""

    def __init__(
        self, bounds: NDArray[np.float64], lengths: NDArray[np.float32], power: int
    ) -> None:
        super().__init__(bounds, lengths)
        self.power = power

    @override
    def start(self) -> Tensor:
        return torch.full((1,), (self.classes - 1) / 2)

    @override
    def loss(self, raw: Tensor, batch: LengthBatch) -> Tensor:
        error = overshoot_free(raw - self.label(batch.tokens), batch.cut)
        return sample_mean(error.abs() ** self.power, batch.known)

    @override
    def middle(self, raw: Tensor) -> Tensor:
        x, m = raw[:, 0], self.log_medians
        # Beyond the first and last number it extrapolates, which keeps the order.
        at = x.floor().clamp(0, self.classes - 2).to(torch.int64)
        return m[at] + (x - at) * (m[at + 1] - m[at])


class CumulativeLink(Classed):
    """One score and rising thresholds: P(class > k) = sigmoid(score - threshold k)."""

    def __init__(self, bounds: NDArray[np.float64], lengths: NDArray[np.float32]) -> None:
        super().__init__(bounds, lengths)
        beyond = (1.0 - self.share.cumsum(0)[:-1]).clamp(0.005, 0.995)
        at = -torch.logit(beyond)
        self.first = nn.Parameter(at[:1].clone())
        self.steps = nn.Parameter(torch.expm1((at[1:] - at[:-1]).clamp(min=0.1)).log())

    def thresholds(self) -> Tensor:
        """Return the thresholds, rising by construction: float32, (classes - 1,)."""
        return torch.cat([self.first, self.first + functional.softplus(self.steps).cumsum(0)])

    @override
    def loss(self, raw: Tensor, batch: LengthBatch) -> Tensor:
        label = self.label(batch.tokens)
        return cumulative_link(raw[:, 0], self.thresholds(), label, batch.cut, batch.known)

    @override
    def middle(self, raw: Tensor) -> Tensor:
        beyond = torch.sigmoid(raw - self.thresholds())  # (batch, classes - 1)
        return self.log_medians[0] + beyond @ (self.log_medians[1:] - self.log_medians[:-1])


def _rising(bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move bounds at least one token apart: short answers crowd, and each class needs room."""
    out = np.maximum(bounds.astype(np.float64), 1.5)
    for i in range(1, len(out)):
        out[i] = max(out[i], out[i - 1] + 1.0)
    return out


#: Quantiles of the training lengths that cut the classes.
_THREE, _FIVE = (0.5, 0.99), (0.25, 0.5, 0.75, 0.99)

_SHARES = "It predicts shares of classes of length; the middle is their mean log median."
_PLACE = "It predicts a place between classes of length, read between the classes' medians."

#: The inventors of these answer with the likeliest class alone.
_LIKELIEST = OwnDecision("likeliest class", "likeliest")


def _bounds(lengths: NDArray[np.float32], quantiles: tuple[float, ...]) -> NDArray[np.float64]:
    return _rising(np.quantile(lengths, quantiles))


def _percentile_classes(quantiles: tuple[float, ...]) -> Objective:
    def head(lengths: NDArray[np.float32], config: TaskConfig) -> Classes:
        return Classes(_bounds(lengths, quantiles), lengths, weighted=config.class_weights)

    return Objective(head, _SHARES, own_decision=_LIKELIEST)


def _equal_width(lengths: NDArray[np.float32], config: TaskConfig) -> Classes:
    width = config.label_max_tokens / config.classes
    bounds = np.arange(1, config.classes, dtype=np.float64) * width
    return Classes(bounds, lengths, weighted=False)


CLASSES_3, CLASSES_5 = _percentile_classes(_THREE), _percentile_classes(_FIVE)
EQUAL_WIDTH = Objective(_equal_width, _SHARES, own_decision=_LIKELIEST)
ORDINAL_L1 = Objective(
    lambda lengths, _: ClassIndex(_bounds(lengths, _FIVE), lengths, power=1), _PLACE
)
ORDINAL_MSE = Objective(
    lambda lengths, _: ClassIndex(_bounds(lengths, _FIVE), lengths, power=2), _PLACE
)
ORDINAL_CUMULATIVE = Objective(
    lambda lengths, _: CumulativeLink(_bounds(lengths, _FIVE), lengths), _PLACE
)
