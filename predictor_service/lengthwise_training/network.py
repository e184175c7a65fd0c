"""The part of the model that is trained by gradients: tokens and counts to quantiles.

Called by train and predictor. It reads the whole text, but only word by word and pair by pair; the
order of words is the frozen encoder's business (backbone.py, kernel.py).
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Log of a usual length, where the outputs start before anything is learned, log tokens.
LOG_USUAL_TOKENS = math.log(250.0)


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of the network.

    Attributes:
        vocabulary: Token ids are 0 (padding) to vocabulary - 1.
        feature_count: Columns of `features.text_features`.
        llm_count: LLMs and other writers with an embedding of their own.
        dim: Width of the token embeddings and of the convolution on them.
        convolution: Width of the convolution, tokens, odd.
        bigram_buckets: Rows of the hashed table of neighbouring token pairs.
        bigram_dim: Width of that table.
        pools: Learned attention poolings, beside mean and maximum.
        hidden: Width of the head.
        dropout: Share of the text vector and of the head dropped in training.
        token_dropout: Share of tokens dropped in training.
        max_tokens: The window; see `features.window`.
    """

    vocabulary: int
    feature_count: int
    llm_count: int
    dim: int = 96
    convolution: int = 3
    bigram_buckets: int = 16_384
    bigram_dim: int = 32
    pools: int = 6
    hidden: int = 192
    dropout: float = 0.3
    token_dropout: float = 0.2
    max_tokens: int = 192


class LengthHead(nn.Module):
    """Text vector and LLM to log quantiles and log mean: p10 <= p50 <= p90 by construction."""

    def __init__(self, width: int, llm_count: int, hidden: int, dropout: float) -> None:
        """`width`: of the text vector."""
        super().__init__()
        self.text = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.scale = nn.Parameter(0.02 * torch.randn(llm_count, hidden))
        self.shift = nn.Parameter(0.02 * torch.randn(llm_count, hidden))
        self.bias = nn.Parameter(0.02 * torch.randn(llm_count, 4))
        self.out = nn.Linear(hidden, 4)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.out.weight, std=0.02)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor([LOG_USUAL_TOKENS, -0.5, -0.5, LOG_USUAL_TOKENS]))

    def forward(self, vector: Tensor) -> Tensor:
        """Log tokens for every LLM, float32, (batch, llm_count, 4): p10, p50, p90, mean.

        Args:
            vector: float32, (batch, width).
        """
        base = self.norm(self.text(vector)).unsqueeze(1)  # (batch, 1, hidden)
        mixed = functional.gelu(base * (1.0 + self.scale) + self.shift)
        raw = self.out(self.dropout(mixed)) + self.bias
        p50, low, high, mean = raw.unbind(-1)
        return torch.stack(
            [p50 - functional.softplus(low), p50, p50 + functional.softplus(high), mean], dim=-1
        )


class TextEncoder(nn.Module):
    """Tokens and counts to one vector: embeddings, a convolution, poolings, pairs of tokens."""

    def __init__(self, config: NetworkConfig, table: Tensor) -> None:
        """`table`: float32, (vocabulary, dim), where the token embeddings start."""
        super().__init__()
        dim = config.dim
        self.config = config
        self.tokens: nn.Module = nn.Embedding.from_pretrained(table.clone(), freeze=False)
        # The first words and the last ones are where people say what they want.
        self.from_start = nn.Embedding(config.max_tokens, dim)
        self.from_end = nn.Embedding(config.max_tokens, dim)
        self.pairs: nn.Module = nn.Embedding(config.bigram_buckets, config.bigram_dim)
        for embedding in (self.from_start, self.from_end, self.pairs):
            nn.init.normal_(embedding.weight, std=0.02)
        self.convolution = nn.Conv1d(dim, dim, config.convolution, padding=config.convolution // 2)
        self.norm = nn.LayerNorm(dim)
        self.queries = nn.Linear(dim, config.pools)
        self.counts = nn.Sequential(nn.Linear(config.feature_count, 64), nn.GELU())
        self.dropout = nn.Dropout(config.dropout)
        self.width = dim * (config.pools + 2) + 64 + config.bigram_dim

    def forward(self, ids: Tensor, counts: Tensor) -> Tensor:
        """The text as one vector, float32, (batch, width).

        Args:
            ids: int64, (batch, seq), right-padded with 0; seq <= max_tokens.
            counts: float32, (batch, feature_count), standardised.
        """
        there = ids != 0
        mask = there.to(counts.dtype)  # (batch, seq)
        if self.training and self.config.token_dropout > 0:
            # A very short text keeps its words: without one of them it is another text.
            kept = (torch.rand_like(mask) >= self.config.token_dropout).to(mask.dtype)
            mask = mask * torch.where(mask.sum(1, keepdim=True) <= 4, torch.ones_like(kept), kept)
        place = torch.cumsum(there.to(torch.int64), dim=1)
        x = self.tokens(ids)
        x = x + self.from_start((place - 1).clamp(min=0))
        x = x + self.from_end((place[:, -1:] - place).clamp(min=0))
        x = x * mask.unsqueeze(-1)
        near = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        x = self.norm((x + functional.relu(near)) * mask.unsqueeze(-1))
        blocked = ((mask - 1.0) * 1e4).unsqueeze(-1)
        total = mask.sum(1, keepdim=True).clamp(min=1.0)
        mean = (x * mask.unsqueeze(-1)).sum(1) / total
        maximum = (x + blocked).amax(1).clamp(min=-10.0)
        weights = torch.softmax(self.queries(x) + blocked, dim=1)
        pooled = (weights.transpose(1, 2) @ x).flatten(1)  # (batch, pools * dim)
        pair = (ids[:, :-1] * 31_337 + ids[:, 1:]) % self.config.bigram_buckets
        both = (mask[:, :-1] * mask[:, 1:]).unsqueeze(-1)
        pairs = (self.pairs(pair) * both).sum(1) / total.sqrt()
        vector = torch.cat([pooled, mean, maximum, self.counts(counts), pairs], dim=1)
        return self.dropout(vector)


class LengthNetwork(nn.Module):
    """`TextEncoder`, then `LengthHead`."""

    def __init__(
        self, config: NetworkConfig, table: Tensor, centre: Tensor, spread: Tensor
    ) -> None:
        """`centre`, `spread`: float32, (feature_count,), by which the counts are standardised."""
        super().__init__()
        self.config = config
        self.encoder = TextEncoder(config, table)
        self.head = LengthHead(self.encoder.width, config.llm_count, config.hidden, config.dropout)
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)

    def vector(self, ids: Tensor, features: Tensor) -> Tensor:
        """The text as a vector, before any LLM is named: float32, (batch, width)."""
        out: Tensor = self.encoder(ids, standardise(features, self.centre, self.spread))
        return out

    def forward(self, ids: Tensor, features: Tensor) -> Tensor:
        """Log tokens for every LLM, float32, (batch, llm_count, 4): p10, p50, p90, mean."""
        out: Tensor = self.head(self.vector(ids, features))
        return out


def standardise(features: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
    """Counts in units of their spread, cut at 4: an odd text must not throw the model off."""
    return ((features - centre) / spread).clamp(-4.0, 4.0)
