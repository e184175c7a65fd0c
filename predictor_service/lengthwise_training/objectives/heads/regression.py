"""Heads that predict the length itself, in tokens or log tokens."""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from lengthwise_training.objectives.head import Head, LengthBatch, usual_tokens
from lengthwise_training.objectives.losses import overshoot_free, sample_mean
from lengthwise_training.objectives.objective import Objective

#: Below this share of the usual length, a prediction linear in tokens continues in logs, so that
#: it stays above 0 and keeps its order.
LINEAR_FLOOR = 0.1


class LinearTokens(Head):
    """Tokens, in units of the usual length; `power` 1 is absolute error, 2 squared error."""

    def __init__(self, usual_tokens: float, power: int) -> None:
        super().__init__()
        self.power = power
        self.register_buffer("usual_tokens", torch.tensor(usual_tokens))

    @override
    def start(self) -> Tensor:
        return torch.ones(1)

    @override
    def loss(self, raw: Tensor, batch: LengthBatch) -> Tensor:
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
    def loss(self, raw: Tensor, batch: LengthBatch) -> Tensor:
        error = raw + self.log_usual - batch.tokens.log()
        return sample_mean(overshoot_free(error, batch.cut).square(), batch.known)

    @override
    def middle(self, raw: Tensor) -> Tensor:
        return raw[:, 0] + self.log_usual


_ANSWERS = "It predicts the length itself."

L1 = Objective(lambda lengths, _: LinearTokens(usual_tokens(lengths), power=1), _ANSWERS)
MSE = Objective(lambda lengths, _: LinearTokens(usual_tokens(lengths), power=2), _ANSWERS)
LOG = Objective(lambda lengths, _: LogTokens(usual_tokens(lengths)), _ANSWERS)
