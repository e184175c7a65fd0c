"""A head that predicts one number for several samples of an answer."""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from lengthwise_training.objectives.config import TaskConfig
from lengthwise_training.objectives.head import Head, LengthBatch, usual_tokens
from lengthwise_training.objectives.losses import overshoot_free
from lengthwise_training.objectives.objective import Objective

#: Of the samples of an answer.
Statistic = Literal["max", "mean", "quantile"]


class Scalar(Head):
    """One number for several samples (maximum, mean or a quantile), as a share of the cap."""

    def __init__(
        self, usual_tokens: float, cap_tokens: float, of: Statistic, quantile: float
    ) -> None:
        super().__init__()
        self.of, self.quantile = of, quantile
        self.register_buffer("usual_tokens", torch.tensor(usual_tokens))
        self.register_buffer("cap_tokens", torch.tensor(max(cap_tokens, 2 * usual_tokens)))

    @override
    def start(self) -> Tensor:
        return torch.logit(self.usual_tokens / self.cap_tokens).view(1)

    def target(self, batch: LengthBatch) -> Tensor:
        """The scalar of each row, float32, (batch,), tokens."""
        nothing = torch.full_like(batch.tokens, math.nan)
        capped = torch.minimum(batch.tokens, self.cap_tokens)
        tokens = torch.where(batch.known, capped, nothing)
        if self.of == "mean":
            return tokens.nanmean(1)
        return tokens.nanquantile(1.0 if self.of == "max" else self.quantile, dim=1)

    @override
    def loss(self, raw: Tensor, batch: LengthBatch) -> Tensor:
        predicted = raw[:, 0].sigmoid() * self.cap_tokens
        cut = (batch.cut & batch.known).any(1)
        error = overshoot_free(predicted - self.target(batch), cut) / self.usual_tokens
        return error.square().mean()

    @override
    def middle(self, raw: Tensor) -> Tensor:
        return functional.logsigmoid(raw[:, 0]) + self.cap_tokens.log()


_ANSWERS = "It predicts one number for several samples of an answer."


def _of(statistic: Statistic) -> Objective:
    def head(lengths: NDArray[np.float32], config: TaskConfig) -> Scalar:
        cap_tokens = float(config.label_max_tokens)
        return Scalar(usual_tokens(lengths), cap_tokens, statistic, config.scalar_quantile)

    return Objective(head, _ANSWERS)


MAX, MEAN, QUANTILE = _of("max"), _of("mean"), _of("quantile")
