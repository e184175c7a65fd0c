"""The whole model of a task: encoder, trunk, head and calibration.

For every task, the graph ends in the four numbers that serving expects. Called by `trainer`, which
trains the parts, and by `export.onnx_export`.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lengthwise_training.backbones.counts import standardise
from lengthwise_training.objectives.head import Head

#: Knots of the monotone map from a rank score to log tokens.
KNOTS = 24


class Trunk(nn.Module):
    """Maps text vector, counts and LLM to the head's raw numbers; LLM row 0 is any unknown LLM."""

    def __init__(
        self,
        width: int,
        centre: Tensor,
        spread: Tensor,
        llm_count: int,
        hidden: int,
        dropout: float,
        start: Tensor,
    ) -> None:
        """Build the trunk.

        Args:
            width: Of the text vector.
            centre: float32, (feature_count,), mean of the counts; empty uses no counts.
            spread: float32, (feature_count,), their standard deviation.
            llm_count: LLMs with an embedding of their own.
            hidden: Width of the one hidden layer.
            dropout: Share dropped of the inputs and of the hidden layer.
            start: float32, (outputs,), its output before it has learned.
        """
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)
        self.text = nn.Linear(width + len(centre), hidden)
        self.norm = nn.LayerNorm(hidden)
        self.llms = nn.Parameter(0.02 * torch.randn(llm_count, hidden))
        self.llm_bias = nn.Parameter(torch.zeros(llm_count, len(start)))
        self.out = nn.Linear(hidden, len(start))
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.out.weight, std=0.02)
        with torch.no_grad():
            self.out.bias.copy_(start)

    def forward(self, vector: Tensor, features: Tensor, llm: Tensor) -> Tensor:
        """Compute the raw numbers, float32, (batch, outputs).

        Args:
            vector: float32, (batch, width).
            features: float32, (batch, feature_count), from `text_features`.
            llm: int64, (batch,); 0 stands for the mean of all LLMs.
        """
        counts = standardise(features[:, : len(self.centre)], self.centre, self.spread)
        base = self.norm(self.text(self.dropout(torch.cat([vector, counts], dim=1))))
        shift = torch.cat([self.llms.mean(0, keepdim=True), self.llms])[llm]
        bias = torch.cat([self.llm_bias.mean(0, keepdim=True), self.llm_bias])[llm]
        return self.out(self.dropout(functional.gelu(base + shift))) + bias


class OutputCalibration(nn.Module):
    """Numbers fitted on validation rows: tokens for a score, a centred middle, and correct gaps.

    They keep the order of the predictions.
    """

    def __init__(self) -> None:
        """Start as the identity; `fit_calibration` fills it in."""
        super().__init__()
        line = torch.linspace(-1.0, 1.0, KNOTS)
        self.register_buffer("scores", line)
        self.register_buffer("tokens", line.clone())
        self.register_buffer("shift", torch.zeros(1))
        self.register_buffer("mean_shift", torch.zeros(1))
        # Row 0 for an unknown LLM, row 1 for a known one: gap below, gap above.
        self.register_buffer("gaps", torch.ones(2, 2))

    def place(self, score: Tensor) -> Tensor:
        """Map a rank score to log tokens, piecewise linear and rising: float32, (batch,)."""
        at = (score.unsqueeze(1) >= self.scores).sum(1).sub(1).clamp(0, KNOTS - 2)
        low, high = self.scores[at], self.scores[at + 1]
        part = (score - low) / (high - low)
        return self.tokens[at] + part * (self.tokens[at + 1] - self.tokens[at])

    def forward(self, decoded: Tensor, llm: Tensor) -> Tensor:
        """Compute log p10, p50, p90 and mean, float32, (batch, 4), from `Head.decode`'s numbers."""
        p50, below, above, mean = decoded.unbind(1)
        p50, mean = p50 + self.shift, mean + self.mean_shift
        gaps = self.gaps[llm.clamp(max=1)]
        return torch.stack([p50 - below * gaps[:, 0], p50, p50 + above * gaps[:, 1], mean], dim=1)


class TaskPredictor(nn.Module):
    """Maps ids (or vectors), counts and LLM to log p10, p50, p90 and mean."""

    def __init__(self, encoder: Any, trunk: Trunk, head: Head) -> None:
        super().__init__()
        self.encoder, self.trunk, self.head = encoder, trunk, head
        self.calibration = OutputCalibration()

    def decoded(self, raw: Tensor) -> Tensor:
        """Decode the head's output, with tokens for a mere score: float32, (batch, 4)."""
        out = self.head.decode(raw)
        if not self.head.ranks_only:
            return out
        p50 = self.calibration.place(out[:, 0])
        return torch.stack([p50, out[:, 1], out[:, 2], p50], dim=1)

    def answer(self, vector: Tensor, features: Tensor, llm: Tensor) -> Tensor:
        """Predict from a text's vector that was computed before; otherwise as `forward`."""
        raw = self.trunk(vector, features, llm)
        return self.calibration(self.decoded(raw), llm)

    def forward(self, inputs: Tensor, features: Tensor, llm: Tensor) -> Tensor:
        """Compute log tokens, float32, (batch, 4): p10, p50, p90, mean.

        Args:
            inputs: int64, (batch, seq), right-padded; or float32, (batch, width), if the encoder
                takes vectors.
            features: float32, (batch, feature_count).
            llm: int64, (batch,); 0 is any other LLM.
        """
        return self.answer(self.encoder(inputs), features, llm)
