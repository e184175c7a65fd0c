"""The loss of the network: errors of the usual length, the spread and the order."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

#: Logit of "longer" per standard deviation of an author's log lengths.
PAIR_SHARPNESS = 3.0

#: Errors of the usual length beyond this many standard deviations count linearly, not squared.
HUBER = 0.5

#: Weight of the spread's losses, so small that they follow what was learned for the order.
SPREAD_WEIGHT = 0.3


def length_loss(
    out: Tensor,
    samples: Tensor,
    known: Tensor,
    *,
    pair_weight: float,
    spread: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Sum the errors of usual length, order of pairs, quantiles and mean; a scalar.

    The usual length is the mean of the samples' logs: with ten samples, far less noisy than one of
    them. The 10 % and 90 % quantiles and the mean are learned as distances from it.

    Args:
        out: float32, (batch, authors, 4), log tokens: p10, p50, p90, mean.
        samples: float32, (batch, authors, n), log tokens.
        known: bool, (batch, authors), where there are samples.
        pair_weight: Weight of `pair_loss` beside the others.
        spread: float32, (authors,), the unit of each author's log lengths; None is 1.
        weight: float32, (authors,), how much each counts; None is 1.
    """
    unit = out.new_ones(out.shape[1]) if spread is None else spread
    each = out.new_ones(out.shape[1]) if weight is None else weight
    cells = known.to(out.dtype) * each
    total = cells.sum().clamp(min=1.0)
    place, truth = out[..., 1] / unit, samples.mean(-1) / unit
    fit = functional.smooth_l1_loss(place, truth, reduction="none", beta=HUBER)
    gaps = (out - (out[..., 1] - out[..., 1].detach()).unsqueeze(-1)) / unit.view(-1, 1)
    drawn = samples / unit.view(-1, 1)
    around = pinball(gaps[..., 0], drawn, 0.1) + pinball(gaps[..., 2], drawn, 0.9)
    log_mean = samples.exp().mean(-1).log() / unit
    around = around + functional.huber_loss(gaps[..., 3], log_mean, reduction="none", delta=1.0)
    loss = ((fit + SPREAD_WEIGHT * around) * cells).sum() / total
    if pair_weight == 0:
        return loss
    return loss + pair_weight * pair_loss(place, truth, known, each)


def pinball(quantile: Tensor, samples: Tensor, share: float) -> Tensor:
    """Compute the loss that is least at a quantile: float32, (batch, authors).

    Args:
        quantile: float32, (batch, authors).
        samples: float32, (batch, authors, n).
        share: Which quantile, 0 to 1.
    """
    error = samples - quantile.unsqueeze(-1)
    return torch.maximum(share * error, (share - 1.0) * error).mean(-1)


def pair_loss(score: Tensor, length: Tensor, known: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of "which of two answers of one author is longer", over the batch's pairs.

    Pairs less than a standard deviation apart count in proportion: their order is partly chance.

    Args:
        score: float32, (batch, authors), in standard deviations.
        length: float32, (batch, authors), the same for the truth.
        known: bool, (batch, authors).
        weight: float32, (authors,).
    """
    s, y, k = score.t(), length.t(), known.t()  # (authors, batch)
    margin = (s.unsqueeze(2) - s.unsqueeze(1)) * PAIR_SHARPNESS
    gap = y.unsqueeze(2) - y.unsqueeze(1)
    pairs = (k.unsqueeze(2) & k.unsqueeze(1) & (gap > 0)).to(score.dtype)
    pairs = pairs * gap.clamp(max=1.0) * weight.view(-1, 1, 1)
    return (functional.softplus(-margin) * pairs).sum() / pairs.sum().clamp(min=1.0)
