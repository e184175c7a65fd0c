"""The base class of all heads, and the batch of lengths that a head learns from.

A head turns the trunk's raw numbers into a loss while training, and into log tokens in service.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

#: The quantiles of a prediction.
QUANTILES = (0.1, 0.5, 0.9)

#: tau-b and pair accuracy.
RankScores = tuple[float, float]


@dataclass(frozen=True)
class LengthBatch:
    """The lengths that one training step learns from.

    Attributes:
        tokens: float32, (batch, n), tokens; 1 where there is no sample.
        known: bool, (batch, n), where there is a sample.
        cut: bool, (batch, n), where a cap ended the answer.
        drawn: int64, (batch,), one known sample of each row, for losses that order rows.
        order: int64, (batch,), a random permutation that breaks ties.
    """

    tokens: Tensor
    known: Tensor
    cut: Tensor
    drawn: Tensor
    order: Tensor

    def one(self) -> tuple[Tensor, Tensor]:
        """Return the drawn sample of each row, and whether it was cut: (batch,) each."""
        at = self.drawn.unsqueeze(1)
        return self.tokens.gather(1, at).squeeze(1), self.cut.gather(1, at).squeeze(1)


class Head(nn.Module):
    """Base of all heads.

    `decode` turns the raw numbers into a prediction in log tokens: the middle, the gaps to p10 and
    p90, and the mean. Where a head has no unit of its own (a rank score) or no spread,
    `fitting.calibration` adds it afterwards, on validation rows.

    Attributes:
        outputs: How many raw numbers it reads.
        ranks_only: Its middle has no unit until calibration gives it one.
    """

    outputs = 1
    ranks_only = False

    def start(self) -> Tensor:
        """Initial values of the raw numbers, float32, (outputs,)."""
        return torch.zeros(self.outputs)

    def loss(self, raw: Tensor, batch: LengthBatch) -> Tensor:
        """Compute the loss, a scalar; `raw`: float32, (batch, outputs)."""
        raise NotImplementedError

    def middle(self, raw: Tensor) -> Tensor:
        """Compute the middle of the prediction, log tokens, float32, (batch,)."""
        raise NotImplementedError

    def decode(self, raw: Tensor) -> Tensor:
        """Compute middle, gap below, gap above and mean: log tokens, float32, (batch, 4)."""
        p50 = self.middle(raw)
        one = torch.ones_like(p50)
        return torch.stack([p50, one, one, p50], dim=1)

    def own_scores(
        self, raw: Tensor, tokens: Tensor, known: Tensor, score: Callable[[Tensor], RankScores]
    ) -> dict[str, float]:
        """Score what the method's inventors decide by, for metrics.json; by default nothing.

        Args:
            raw: float32, (rows, outputs), of the test rows.
            tokens: float32, (rows, n), tokens.
            known: bool, (rows, n), where there is a sample.
            score: Scores log tokens, float32, (rows,).
        """
        return {}


def usual_tokens(lengths: NDArray[np.float32]) -> float:
    """Return the median length, tokens."""
    return float(np.median(lengths))
