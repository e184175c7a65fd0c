"""What the networks are trained to do: quantiles, a mean, and above all the right order."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

#: Which quantiles the first three outputs are.
QUANTILES = (0.1, 0.5, 0.9)

#: Logit per unit of difference in log length; at 5, a 20 % longer answer is longer with odds 2.5.
PAIR_SHARPNESS = 5.0


def length_loss(out: Tensor, samples: Tensor, known: Tensor, *, pair_weight: float) -> Tensor:
    """Pinball loss of the quantiles + squared error of the mean + order of pairs; a scalar.

    Args:
        out: float32, (batch, llms, 4), log tokens: p10, p50, p90, mean.
        samples: float32, (batch, llms, n), log tokens.
        known: bool, (batch, llms), where there are samples.
        pair_weight: Weight of `pair_loss` beside the others.
    """
    error = samples.unsqueeze(-2) - out[..., :3].unsqueeze(-1)  # (batch, llms, 3, n)
    q = out.new_tensor(QUANTILES).view(3, 1)
    pinball = torch.maximum(q * error, (q - 1.0) * error).mean(-1).sum(-1)
    log_mean = samples.exp().mean(-1).log()
    squared = functional.huber_loss(out[..., 3], log_mean, reduction="none", delta=1.0)
    weight = known.to(out.dtype)
    fit = ((pinball + squared) * weight).sum() / weight.sum().clamp(min=1.0)
    if pair_weight == 0:
        return fit
    drawn = torch.randint(samples.shape[-1], (1,), device=samples.device)
    return fit + pair_weight * pair_loss(out[..., 1], samples[..., drawn].squeeze(-1), known)


def pair_loss(score: Tensor, length: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy of "which of two answers of one LLM is longer", over all pairs in the batch.

    Args:
        score: float32, (batch, llms), log tokens.
        length: float32, (batch, llms), log tokens, one sample.
        known: bool, (batch, llms).
    """
    s, y, k = score.t(), length.t(), known.t()  # (llms, batch)
    margin = (s.unsqueeze(2) - s.unsqueeze(1)) * PAIR_SHARPNESS
    gap = y.unsqueeze(2) - y.unsqueeze(1)
    pairs = k.unsqueeze(2) & k.unsqueeze(1) & (gap > 0)
    count = pairs.sum().clamp(min=1)
    return (functional.softplus(-margin) * pairs).sum() / count
