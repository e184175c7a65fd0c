"""The last step of each task: its loss while training, and its way back to tokens in service.

A head reads the trunk's raw numbers. `decode` turns them into the one answer of the product, in log
tokens: the middle, the gaps to p10 and p90, and the mean. What has no unit of its own (a rank
score) or no spread is put right afterwards, on validation rows, by calibration.py.

Called by task_predictor and assembly; `build` makes the head of a task from the training lengths.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from lengthwise_training.objectives.losses import (
    class_nll,
    cumulative_link,
    edge_renormalised_kernel,
    histogram_kl,
    list_mle,
    overshoot_free,
    pair_logistic,
    pinball,
    sample_mean,
)
from lengthwise_training.objectives.tasks import PERCENTILES, Task, TaskConfig

QUANTILES = (0.1, 0.5, 0.9)

#: Below this share of the usual length, a prediction linear in tokens goes on in logs, so that
#: it stays above 0 and what it ranks stays ranked.
LINEAR_FLOOR = 0.1


@dataclass(frozen=True)
class Batch:
    """The lengths that a step learns from.

    Attributes:
        tokens: float32, (batch, n), tokens; 1 where there is no sample.
        known: bool, (batch, n), where there is one.
        cut: bool, (batch, n), where a cap ended it.
        drawn: int64, (batch,), one known sample of each row, for losses that order rows.
        order: int64, (batch,), a permutation, to break ties by chance.
    """

    tokens: Tensor
    known: Tensor
    cut: Tensor
    drawn: Tensor
    order: Tensor

    def one(self) -> tuple[Tensor, Tensor]:
        """The drawn sample of each row, and whether it was cut: (batch,) each."""
        at = self.drawn.unsqueeze(1)
        return self.tokens.gather(1, at).squeeze(1), self.cut.gather(1, at).squeeze(1)


class Head(nn.Module):
    """Base of all heads.

    Attributes:
        outputs: Raw numbers it reads.
        ranks_only: Its middle has no unit until calibration gives it one.
    """

    outputs = 1
    ranks_only = False

    def start(self) -> Tensor:
        """Where the raw numbers should begin, float32, (outputs,)."""
        return torch.zeros(self.outputs)

    def loss(self, raw: Tensor, batch: Batch) -> Tensor:
        """A scalar; `raw`: float32, (batch, outputs)."""
        raise NotImplementedError

    def middle(self, raw: Tensor) -> Tensor:
        """The answer's middle, log tokens, float32, (batch,)."""
        raise NotImplementedError

    def decode(self, raw: Tensor) -> Tensor:
        """Middle, gap below, gap above, mean: log tokens, float32, (batch, 4)."""
        p50 = self.middle(raw)
        one = torch.ones_like(p50)
        return torch.stack([p50, one, one, p50], dim=1)


class LinearTokens(Head):
    """Tokens as such, in units of the usual length; `power` 1 is absolute error, 2 squared."""

    def __init__(self, usual_tokens: float, power: int) -> None:
        super().__init__()
        self.power = power
        self.register_buffer("usual_tokens", torch.tensor(usual_tokens))

    @override
    def start(self) -> Tensor:
        return torch.ones(1)

    @override
    def loss(self, raw: Tensor, batch: Batch) -> Tensor:
        error = overshoot_free(raw - batch.tokens / self.usual_tokens, batch.cut)
        return sample_mean(error.abs() ** self.power, batch.known)

    @override
    def middle(self, raw: Tensor) -> Tensor:
        x = raw[:, 0]
        low = math.log(LINEAR_FLOOR) + (x - LINEAR_FLOOR) / LINEAR_FLOOR
        logs = torch.where(x > LINEAR_FLOOR, x.clamp(min=LINEAR_FLOOR).log(), low)
        return logs + self.usual_tokens.log()


class LogTokens(Head):
    """Log tokens, squared error."""

    def __init__(self, usual_tokens: float) -> None:
        super().__init__()
        self.register_buffer("log_usual", torch.tensor(math.log(usual_tokens)))

    @override
    def loss(self, raw: Tensor, batch: Batch) -> Tensor:
        error = raw + self.log_usual - batch.tokens.log()
        return sample_mean(overshoot_free(error, batch.cut).square(), batch.known)

    @override
    def middle(self, raw: Tensor) -> Tensor:
        return raw[:, 0] + self.log_usual


class Scalar(Head):
    """One number for several samples (their maximum, mean or a quantile), as a share of the cap."""

    def __init__(self, usual_tokens: float, cap_tokens: float, of: str, quantile: float) -> None:
        super().__init__()
        self.of, self.quantile = of, quantile
        self.register_buffer("usual_tokens", torch.tensor(usual_tokens))
        self.register_buffer("cap_tokens", torch.tensor(max(cap_tokens, 2 * usual_tokens)))

    @override
    def start(self) -> Tensor:
        return torch.logit(self.usual_tokens / self.cap_tokens).view(1)

    def target(self, batch: Batch) -> Tensor:
        """The scalar of each row, float32, (batch,), tokens."""
        nothing = torch.full_like(batch.tokens, math.nan)
        capped = torch.minimum(batch.tokens, self.cap_tokens)
        tokens = torch.where(batch.known, capped, nothing)
        if self.of == "mean":
            return tokens.nanmean(1)
        return tokens.nanquantile(1.0 if self.of == "max" else self.quantile, dim=1)

    @override
    def loss(self, raw: Tensor, batch: Batch) -> Tensor:
        predicted = raw[:, 0].sigmoid() * self.cap_tokens
        cut = (batch.cut & batch.known).any(1)
        error = overshoot_free(predicted - self.target(batch), cut) / self.usual_tokens
        return error.square().mean()

    @override
    def middle(self, raw: Tensor) -> Tensor:
        return functional.logsigmoid(raw[:, 0]) + self.cap_tokens.log()


class Classed(Head):
    """What the heads on classes share: their bounds and the usual length in each."""

    def __init__(self, bounds: NDArray[np.float64], lengths: NDArray[np.float32]) -> None:
        """Cut the training lengths into classes.

        Args:
            bounds: float64, (classes - 1,), rising; a length on a bound is above it.
            lengths: float32, the training samples, tokens.
        """
        super().__init__()
        label = np.searchsorted(bounds, lengths, side="right")
        edges = [1.0, *bounds.tolist(), float(max(lengths.max(), bounds[-1] + 1))]
        # A class that nobody is in is answered by its middle.
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
        """The class of each length, int64, of the shape of `tokens`."""
        return torch.searchsorted(self.bounds, tokens.contiguous(), right=True)


class Classes(Classed):
    """Classes by cross-entropy; the middle is the mean log median over the classes' shares.

    The seeds of this idea answer with the likeliest class alone, which ties nearly everything when
    the classes are wide; `likeliest` does the same, to be compared.
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
    def loss(self, raw: Tensor, batch: Batch) -> Tensor:
        return class_nll(raw, self.label(batch.tokens), batch.cut, batch.known, self.weight)

    def likeliest(self, raw: Tensor) -> Tensor:
        """Log median of the likeliest class, float32, (batch,)."""
        return self.log_medians[raw.argmax(1)]

    @override
    def middle(self, raw: Tensor) -> Tensor:
        # What the weights in the loss did to the shares is undone.
        return functional.softmax(raw - self.weight.log(), dim=-1) @ self.log_medians


class ClassIndex(Classed):
    """The class's number as if it were a quantity; between two numbers, between two medians."""

    def __init__(
        self, bounds: NDArray[np.float64], lengths: NDArray[np.float32], power: int
    ) -> None:
        super().__init__(bounds, lengths)
        self.power = power

    @override
    def start(self) -> Tensor:
        return torch.full((1,), (self.classes - 1) / 2)

    @override
    def loss(self, raw: Tensor, batch: Batch) -> Tensor:
        error = overshoot_free(raw - self.label(batch.tokens), batch.cut)
        return sample_mean(error.abs() ** self.power, batch.known)

    @override
    def middle(self, raw: Tensor) -> Tensor:
        x, m = raw[:, 0], self.log_medians
        # Beyond the first and last number the line goes on, so that order is kept.
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
        """Rising by construction: float32, (classes - 1,)."""
        return torch.cat([self.first, self.first + functional.softplus(self.steps).cumsum(0)])

    @override
    def loss(self, raw: Tensor, batch: Batch) -> Tensor:
        label = self.label(batch.tokens)
        return cumulative_link(raw[:, 0], self.thresholds(), label, batch.cut, batch.known)

    @override
    def middle(self, raw: Tensor) -> Tensor:
        beyond = torch.sigmoid(raw - self.thresholds())  # (batch, classes - 1)
        return self.log_medians[0] + beyond @ (self.log_medians[1:] - self.log_medians[:-1])


class Ranker(Head):
    """A score that orders answers, larger for longer; calibration gives it tokens."""

    ranks_only = True

    def __init__(self, usual_tokens: float, bucket_tokens: int | None) -> None:
        """`bucket_tokens`: tie lengths this close and learn lists; None learns pairs."""
        super().__init__()
        self.bucket_tokens = bucket_tokens
        self.register_buffer("log_usual", torch.tensor(math.log(usual_tokens)))

    @override
    def loss(self, raw: Tensor, batch: Batch) -> Tensor:
        length, cut = batch.one()
        if self.bucket_tokens is None:
            return pair_logistic(raw[:, 0], length, cut)
        bucket = torch.floor(length / self.bucket_tokens)
        # Short first is what a queue wants at the head of the list.
        return list_mle(-raw[:, 0], bucket, cut, batch.order) / len(length)

    @override
    def middle(self, raw: Tensor) -> Tensor:
        return raw[:, 0] + self.log_usual


class Insertion(Head):
    """The share of anchors that an answer is longer than; see cross_predictor, which learns it."""

    ranks_only = True

    def __init__(self, usual_tokens: float) -> None:
        super().__init__()
        self.register_buffer("log_usual", torch.tensor(math.log(usual_tokens)))

    @override
    def middle(self, raw: Tensor) -> Tensor:
        # As many anchors below as above: a usual length.
        return raw[:, 0] - 0.5 + self.log_usual


class Histogram(Head):
    """Shares of bins; its quantiles are read off between the bins' edges."""

    def __init__(
        self, edges: NDArray[np.float64], lengths: NDArray[np.float32], sigma_bins: float
    ) -> None:
        """`edges`: float64, (bins + 1,), tokens, rising, the first > 0; longer is the last bin."""
        super().__init__()
        self.outputs = len(edges) - 1
        self.register_buffer("inner", torch.tensor(edges[1:-1], dtype=torch.float32))
        self.register_buffer("log_edges", torch.tensor(edges, dtype=torch.float32).log())
        centres = torch.tensor((edges[1:] + edges[:-1]) / 2, dtype=torch.float32)
        self.register_buffer("centres", centres)
        kernel = edge_renormalised_kernel(self.outputs, sigma_bins)
        self.register_buffer("kernel", kernel, persistent=False)
        label = np.searchsorted(edges[1:-1], lengths, side="right")
        counts = np.bincount(label, minlength=self.outputs)
        self.usual = torch.tensor(counts / counts.sum(), dtype=torch.float32) @ kernel

    @override
    def start(self) -> Tensor:
        return self.usual.clamp(min=1e-5).log()

    def label(self, tokens: Tensor) -> Tensor:
        """The bin of each length, int64, of the shape of `tokens`."""
        return torch.searchsorted(self.inner, tokens.contiguous(), right=True)

    @override
    def loss(self, raw: Tensor, batch: Batch) -> Tensor:
        label = self.label(batch.tokens)
        return histogram_kl(raw, label, batch.cut, batch.known, self.kernel)

    def quantile(self, share: Tensor, quantile: float) -> Tensor:
        """Log tokens below which lies `quantile`: float32, (batch,); `share`: (batch, bins)."""
        below = share.cumsum(1)
        # Rounding may leave the sum under the quantile: then it is the last bin, never the first.
        at = (below < quantile).sum(1, keepdim=True).clamp(max=self.outputs - 1)
        mine = share.gather(1, at)
        part = (quantile - (below.gather(1, at) - mine)) / mine.clamp(min=1e-9)
        low, high = self.log_edges[at], self.log_edges[at + 1]
        return (low + part.clamp(0.0, 1.0) * (high - low)).squeeze(1)

    @override
    def middle(self, raw: Tensor) -> Tensor:
        return self.quantile(functional.softmax(raw, dim=-1), 0.5)

    @override
    def decode(self, raw: Tensor) -> Tensor:
        share = functional.softmax(raw, dim=-1)
        p10, p50, p90 = (self.quantile(share, q) for q in QUANTILES)
        return torch.stack([p50, p50 - p10, p90 - p50, (share @ self.centres).log()], dim=1)


class Quantiles(Head):
    """p10 <= p50 <= p90 by construction, by pinball loss in log tokens, and the mean."""

    outputs = 4

    def __init__(self, usual_tokens: float) -> None:
        super().__init__()
        self.register_buffer("log_usual", torch.tensor(math.log(usual_tokens)))

    @override
    def start(self) -> Tensor:
        return torch.tensor([0.0, -0.5, -0.5, 0.0])

    @override
    def loss(self, raw: Tensor, batch: Batch) -> Tensor:
        middle, below, above, mean = self.decode(raw).unbind(1)
        logs = batch.tokens.log()
        fit = sum(
            sample_mean(pinball(p.unsqueeze(1).expand_as(logs), logs, batch.cut, q), batch.known)
            for q, p in zip(QUANTILES, (middle - below, middle, middle + above), strict=True)
        )
        known = batch.known.to(logs.dtype)
        log_mean = ((batch.tokens * known).sum(1) / known.sum(1)).log()
        cut = (batch.cut & batch.known).any(1)
        return fit + 0.5 * overshoot_free(mean - log_mean, cut).square().mean()

    @override
    def middle(self, raw: Tensor) -> Tensor:
        return raw[:, 0] + self.log_usual

    @override
    def decode(self, raw: Tensor) -> Tensor:
        p50 = self.middle(raw)
        return torch.stack(
            [
                p50,
                functional.softplus(raw[:, 1]),
                functional.softplus(raw[:, 2]),
                raw[:, 3] + self.log_usual,
            ],
            dim=1,
        )


def build(task: Task, lengths: NDArray[np.float32], config: TaskConfig) -> Head:
    """The head of a task.

    Args:
        task: Which.
        lengths: float32, the training samples, tokens; cut ones at their cap.
        config: The tasks' numbers.
    """
    usual = float(np.median(lengths))
    if task in (Task.REGRESSION_L1, Task.REGRESSION_MSE):
        return LinearTokens(usual, 1 if task == Task.REGRESSION_L1 else 2)
    if task == Task.REGRESSION_LOG:
        return LogTokens(usual)
    if task in PERCENTILES:
        bounds = _rising(np.quantile(lengths, PERCENTILES[task]))
        if task in (Task.ORDINAL_L1, Task.ORDINAL_MSE):
            return ClassIndex(bounds, lengths, 1 if task == Task.ORDINAL_L1 else 2)
        if task == Task.ORDINAL_CUMULATIVE:
            return CumulativeLink(bounds, lengths)
        return Classes(bounds, lengths, weighted=config.class_weights)
    if task == Task.CLASSES_EQUAL_WIDTH:
        width = config.label_max_tokens / config.classes
        equal = np.arange(1, config.classes, dtype=np.float64) * width
        return Classes(equal, lengths, weighted=False)
    if task in (Task.PAIRWISE, Task.LISTMLE):
        return Ranker(usual, config.bucket_tokens if task == Task.LISTMLE else None)
    if task == Task.PAIR_CROSS_ENCODER:
        return Insertion(usual)
    if task == Task.DISTRIBUTION:
        edges = np.geomspace(1.0, 2 * config.label_max_tokens, config.bins + 1)
        return Histogram(edges, lengths, config.sigma_bins)
    if task == Task.DISTRIBUTION_LINEAR:
        edges = np.linspace(0, config.label_max_tokens, config.linear_bins + 1)
        edges[0] = 0.5
        width = config.label_max_tokens / config.linear_bins
        return Histogram(edges, lengths, config.sigma_tokens / width)
    if task == Task.QUANTILES:
        return Quantiles(usual)
    of = task.removeprefix("scalar-")
    return Scalar(usual, float(config.label_max_tokens), of, config.scalar_quantile)


def _rising(bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bounds at least a token apart: short answers crowd, and a class must have room."""
    out = np.maximum(bounds.astype(np.float64), 1.5)
    for i in range(1, len(out)):
        out[i] = max(out[i], out[i - 1] + 1.0)
    return out
