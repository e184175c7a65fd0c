"""The losses of the tasks, as plain functions of tensors; called by the heads.

The length of an answer that was cut at a cap is a lower bound: predicting more than it costs
nothing. In an order, a cut answer is only known to be longer than the answers that ended before its
cap.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def sample_mean(loss: Tensor, known: Tensor) -> Tensor:
    """Average over the samples of a row, then over rows; a scalar.

    Args:
        loss: float32, (batch, n).
        known: bool, (batch, n), which samples exist; at least one in each row.
    """
    weight = known.to(loss.dtype)
    return ((loss * weight).sum(1) / weight.sum(1).clamp(min=1.0)).mean()


def overshoot_free(error: Tensor, cut: Tensor) -> Tensor:
    """Set the error (prediction - length) of a cut answer to 0 where the prediction is above.

    Args:
        error: float32, any shape.
        cut: bool, of that shape.
    """
    return torch.where(cut, error.clamp(max=0.0), error)


def pinball(predicted: Tensor, length: Tensor, cut: Tensor, quantile: float) -> Tensor:
    """Pinball loss of one quantile, elementwise; for a cut answer, that of Powell.

    Args:
        predicted: float32, any shape.
        length: float32, of that shape, in the unit of `predicted`.
        cut: bool, of that shape.
        quantile: 0 to 1.

    Source: Powell, "Censored regression quantiles", 1986, for right-censored lengths.
    """
    error = length - torch.where(cut, torch.minimum(predicted, length), predicted)
    return torch.maximum(quantile * error, (quantile - 1.0) * error)


def list_mle(utility: Tensor, length: Tensor, cut: Tensor, order: Tensor) -> Tensor:
    """Negative log-likelihood of the list sorted short first, under Plackett and Luce; a scalar.

    The sum over places of log(sum of exp(utility) of this and all later items) - utility. A cut
    answer comes after the answers that ended before its cap, and has no place of its own.

    Args:
        utility: float32, (list,), larger for items that come earlier.
        length: float32, (list,), tokens or buckets of them; equal ones are tied.
        cut: bool, (list,).
        order: int64, (list,), a random permutation that breaks ties.

    Source: Xia et al., "Listwise approach to learning to rank", 2008.
    """
    # Two stable sorts after the random order: a cut answer comes behind an equal one that ended.
    order = order[torch.argsort(cut[order].to(torch.int64), stable=True)]
    order = order[torch.argsort(length[order], stable=True)]
    u, ended = utility[order], ~cut[order]
    rest = torch.logcumsumexp(u.flip(0), dim=0).flip(0)
    return ((rest - u) * ended).sum()


def pair_logistic(score: Tensor, length: Tensor, cut: Tensor) -> Tensor:
    """Cross-entropy of "which of two answers is longer" over all known pairs; a scalar.

    Args:
        score: float32, (batch,), larger for longer.
        length: float32, (batch,).
        cut: bool, (batch,); a pair is known if its shorter answer ended.
    """
    gap = length.unsqueeze(1) - length.unsqueeze(0)
    # The longer one may be cut; of two equal lengths, a cut one is the longer one.
    longer = (gap > 0) | ((gap == 0) & cut.unsqueeze(1) & ~cut.unsqueeze(0))
    pairs = longer & ~cut.unsqueeze(0)
    margin = score.unsqueeze(1) - score.unsqueeze(0)
    return (functional.softplus(-margin) * pairs).sum() / pairs.sum().clamp(min=1)


def class_nll(logits: Tensor, label: Tensor, cut: Tensor, known: Tensor, weight: Tensor) -> Tensor:
    """Weighted negative log-likelihood of classes; a cut answer is in its class or a later one.

    Args:
        logits: float32, (batch, classes).
        label: int64, (batch, n), class of each sample.
        cut: bool, (batch, n).
        known: bool, (batch, n).
        weight: float32, (classes,).
    """
    log_p = functional.log_softmax(logits, dim=-1)
    tail = torch.logcumsumexp(log_p.flip(-1), dim=-1).flip(-1)  # log P(this class or later)
    likelihood = torch.where(cut, tail.gather(1, label), log_p.gather(1, label))
    scale = weight[label] * known
    return -(likelihood * scale).sum() / scale.sum().clamp(min=1e-6)


def cumulative_link(
    score: Tensor, thresholds: Tensor, label: Tensor, cut: Tensor, known: Tensor
) -> Tensor:
    """Cross-entropy of "beyond threshold k?" for every k (proportional odds); a scalar.

    Args:
        score: float32, (batch,).
        thresholds: float32, (classes - 1,), rising.
        label: int64, (batch, n), class of each sample.
        cut: bool, (batch, n); such an answer gives no information on thresholds above its class.
        known: bool, (batch, n).
    """
    logit = score.view(-1, 1, 1) - thresholds  # (batch, 1, classes - 1)
    place = torch.arange(len(thresholds), device=score.device)
    beyond = label.unsqueeze(-1) > place  # (batch, n, classes - 1)
    counts = known.unsqueeze(-1) & (beyond | ~cut.unsqueeze(-1))
    loss = functional.binary_cross_entropy_with_logits(
        logit.expand(beyond.shape), beyond.to(logit.dtype), reduction="none"
    )
    return (loss * counts).sum() / counts.sum().clamp(min=1)


def edge_renormalised_kernel(bins: int, sigma: float) -> Tensor:
    """Gaussian smoothing that loses no mass at the ends: float32, (bins, bins), rows sum to 1.

    With a plain convolution the mass of an answer near 0 (or near the last bin) falls off the edge,
    so that short answers weigh less: with sigma 32, an answer of 5 tokens keeps 0.57 of its mass.

    Args:
        bins: Bins of the histogram.
        sigma: Standard deviation, bins; 0 smooths nothing.
    """
    if sigma <= 0:
        return torch.eye(bins)
    place = torch.arange(bins, dtype=torch.float64)
    kernel = torch.exp(-0.5 * ((place[:, None] - place[None, :]) / sigma) ** 2)
    return (kernel / kernel.sum(1, keepdim=True)).to(torch.float32)


def histogram_kl(
    logits: Tensor, label: Tensor, cut: Tensor, known: Tensor, kernel: Tensor
) -> Tensor:
    """KL(smoothed histogram of the samples || prediction), and -log tail for cut ones; a scalar.

    Args:
        logits: float32, (batch, bins).
        label: int64, (batch, n), bin of each sample.
        cut: bool, (batch, n).
        known: bool, (batch, n).
        kernel: float32, (bins, bins), from `edge_renormalised_kernel`.
    """
    log_p = functional.log_softmax(logits, dim=-1)
    ended = (known & ~cut).to(log_p.dtype)
    counts = torch.zeros_like(log_p).scatter_add_(1, label, ended)
    mass = ended.sum(1, keepdim=True)
    target = (counts / mass.clamp(min=1.0)) @ kernel
    divergence = (torch.xlogy(target, target) - target * log_p).sum(1)
    tail = torch.logcumsumexp(log_p.flip(-1), dim=-1).flip(-1).gather(1, label)
    total = known.sum(1).clamp(min=1)
    beyond = -(tail * (known & cut)).sum(1) / total
    return (divergence * mass.squeeze(1) / total + beyond).mean()
