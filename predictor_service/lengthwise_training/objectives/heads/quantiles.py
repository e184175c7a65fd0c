"""A head that predicts p10, p50, p90 and the mean directly."""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from lengthwise_training.objectives.head import QUANTILES, Head, LengthBatch, usual_tokens
from lengthwise_training.objectives.losses import overshoot_free, pinball, sample_mean
from lengthwise_training.objectives.objective import Objective


class QuantileRegression(Head):
    """p10 <= p50 <= p90 by construction, by pinball loss in log tokens; and the mean."""

    outputs = 4

    def __init__(self, usual_tokens: float) -> None:
        super().__init__()
        self.register_buffer("log_usual", torch.tensor(math.log(usual_tokens)))

    @override
    def start(self) -> Tensor:
        return torch.tensor([0.0, -0.5, -0.5, 0.0])

    @override
    def loss(self, raw: Tensor, batch: LengthBatch) -> Tensor:
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


QUANTILES_AND_MEAN = Objective(
    lambda lengths, _: QuantileRegression(usual_tokens(lengths)),
    "It predicts p10, p50, p90 and the mean.",
)
