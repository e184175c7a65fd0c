"""The `hidden` backbone: vectors collected from the served LLM, standardised.

`hidden_states` collects the vectors.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import torch
from torch import Tensor, nn


class VectorEncoder(nn.Module):
    """Vectors that were collected from the served LLM, standardised; see `hidden_states`."""

    pad_id = 0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.max_tokens = width, 0
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def fit(self, vectors: Tensor) -> None:
        """Store the training vectors' mean and spread; `vectors`: float32, (n, width)."""
        self.centre.copy_(vectors.mean(0))
        self.spread.copy_(vectors.std(0).clamp(min=1e-4))

    def forward(self, vectors: Tensor) -> Tensor:
        """Standardise vectors, float32, (batch, width)."""
        return ((vectors - self.centre) / self.spread).clamp(-8.0, 8.0)
