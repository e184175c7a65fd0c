"""The tiny backbone: token embeddings, one convolution and four poolings, trained from scratch."""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lengthwise_training.backbones.config import BLOCKED


class TinyEncoder(nn.Module):
    """Token embeddings, one convolution, and the mean, the maximum and two attention poolings."""

    pad_id = 0

    def __init__(self, vocabulary: int, dim: int, max_tokens: int) -> None:
        """`max_tokens`: the window; there are no special tokens."""
        super().__init__()
        self.max_tokens = max_tokens
        self.words = nn.Embedding(vocabulary, dim)
        self.convolution = nn.Conv1d(dim, dim, 3, padding=1)
        self.norm = nn.LayerNorm(dim)
        self.queries = nn.Linear(dim, 2)
        self.dropout = nn.Dropout(0.2)
        # With opposite signs, the pooled words of a pair are their difference. With a vector added
        # to each, as in BERT, so small a network learned nothing.
        self.segments = nn.Parameter(torch.tensor([1.0, -1.0]).view(2, 1).repeat(1, dim))
        self.width = 4 * dim
        nn.init.normal_(self.words.weight, std=0.3)

    def forward(self, ids: Tensor, second: Tensor | None = None) -> Tensor:
        """Compute one vector for each text or pair of texts, float32, (batch, width).

        Args:
            ids: int64, (batch, seq), padded with 0.
            second: int64, (batch, another seq), the other text of each pair; None: single texts.
        """
        x, mask = self._embedded(ids)
        if second is not None:
            x = x * self.segments[0]
            other, other_mask = self._embedded(second)
            gap = torch.zeros_like(x[:, :1])  # the convolution must not mix the two
            x = torch.cat([x, gap, other * self.segments[1]], dim=1)
            mask = torch.cat([mask, gap[..., :1], other_mask], dim=1)
        near = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        x = self.norm((x + functional.relu(near)) * mask)
        blocked = (mask - 1.0) * -BLOCKED
        mean = (x * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        maximum = (x + blocked).amax(1).clamp(min=-10.0)
        weights = torch.softmax(self.queries(x) + blocked, dim=1)
        return torch.cat([mean, maximum, (weights.transpose(1, 2) @ x).flatten(1)], dim=1)

    def _embedded(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        mask = (ids != self.pad_id).to(self.words.weight.dtype).unsqueeze(-1)  # (batch, seq, 1)
        return self.dropout(self.words(ids)) * mask, mask
