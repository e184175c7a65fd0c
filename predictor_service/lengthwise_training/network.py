"""The networks: a small text encoder that ships, a large one that teaches it, and their head.

Called by train, teacher and export; the only modules of the project that need torch are here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Log of a usual length, where the outputs start before anything is learned, log tokens.
LOG_USUAL_TOKENS = math.log(250.0)


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of the network that ships.

    Attributes:
        vocabulary: Token ids are 0 (padding) to vocabulary - 1.
        feature_count: Columns of `features.text_features`.
        llm_count: LLMs with an embedding of their own; id 0 stands for any other.
        dim: Width of the token embeddings and of the layers on them.
        layers: Self-attention layers, each with four heads.
        convolution: Width of the convolution before them, tokens; 0 for none.
        bigram_buckets: Rows of the hashed table of neighbouring token pairs; 0 for none.
        pools: Learned attention poolings, beside mean and maximum.
        hidden: Width of the head.
        dropout: Share of activations dropped in training.
        token_dropout: Share of tokens dropped in training.
        max_tokens: The window; see `features.window`.
    """

    vocabulary: int
    feature_count: int
    llm_count: int
    dim: int = 128
    layers: int = 1
    convolution: int = 3
    bigram_buckets: int = 0
    pools: int = 8
    hidden: int = 192
    dropout: float = 0.2
    token_dropout: float = 0.1
    max_tokens: int = 256


class LengthHead(nn.Module):
    """Text vector and LLM to log quantiles and log mean: p10 <= p50 <= p90 by construction."""

    def __init__(self, width: int, llm_count: int, hidden: int, dropout: float) -> None:
        """`llm_count` counts id 0, which stands for an LLM that training never saw."""
        super().__init__()
        self.text = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.scale = nn.Embedding(llm_count, hidden)
        self.shift = nn.Embedding(llm_count, hidden)
        self.bias = nn.Embedding(llm_count, 4)
        self.out = nn.Linear(hidden, 4)
        self.dropout = nn.Dropout(dropout)
        for embedding in (self.scale, self.shift, self.bias):
            nn.init.normal_(embedding.weight, std=0.02)
        nn.init.normal_(self.out.weight, std=0.02)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor([LOG_USUAL_TOKENS, -0.5, -0.5, LOG_USUAL_TOKENS]))

    def forward(self, vector: Tensor, llm: Tensor) -> Tensor:
        """Log tokens, float32, (..., 4): p10, p50, p90, mean.

        Args:
            vector: float32, (..., width).
            llm: int64, broadcastable to the leading shape.
        """
        base = self.norm(self.text(vector))
        mixed = functional.gelu(base * (1.0 + self.scale(llm)) + self.shift(llm))
        raw = self.out(self.dropout(mixed)) + self.bias(llm)
        p50, low, high, mean = raw.unbind(-1)
        return torch.stack(
            [p50 - functional.softplus(low), p50, p50 + functional.softplus(high), mean], dim=-1
        )


class SelfAttention(nn.Module):
    """One pre-norm transformer layer, written out so that it exports to a few plain operators."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        """`dim` must divide by `heads`."""
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 2 * dim)
        self.down = nn.Linear(2 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, blocked: Tensor) -> Tensor:
        """`x`: float32, (batch, seq, dim); `blocked`: float32, (batch, 1, 1, seq), 0 or -1e4."""
        batch, seq, dim = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, seq, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (batch, heads, seq, dim / heads)
        weights = torch.softmax(
            q @ k.transpose(-1, -2) * (dim // self.heads) ** -0.5 + blocked, dim=-1
        )
        mixed = (weights @ v).transpose(1, 2).reshape(batch, seq, dim)
        x = x + self.dropout(self.proj(mixed))
        return x + self.dropout(self.down(functional.relu(self.up(self.norm2(x)))))


class TextEncoder(nn.Module):
    """Tokens and counts to one vector: embeddings, a convolution, attention, poolings."""

    def __init__(self, config: NetworkConfig, table: Tensor | None = None) -> None:
        """`table`: float32, (vocabulary, dim), where the token embeddings start; None is random."""
        super().__init__()
        dim = config.dim
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, dim, padding_idx=0)
        if table is None:
            nn.init.normal_(self.tokens.weight, std=0.3)
        else:
            with torch.no_grad():
                self.tokens.weight.copy_(table)
        with torch.no_grad():
            self.tokens.weight[0] = 0.0
        # The first words and the last ones are where people say what they want.
        self.from_start = nn.Embedding(config.max_tokens, dim)
        self.from_end = nn.Embedding(config.max_tokens, dim)
        nn.init.normal_(self.from_start.weight, std=0.02)
        nn.init.normal_(self.from_end.weight, std=0.02)
        self.convolution = (
            nn.Conv1d(dim, dim, config.convolution, padding=config.convolution // 2)
            if config.convolution
            else None
        )
        self.bigrams = (
            nn.Embedding(config.bigram_buckets, 32) if config.bigram_buckets else None
        )
        if self.bigrams is not None:
            nn.init.normal_(self.bigrams.weight, std=0.02)
        self.layers = nn.ModuleList(
            SelfAttention(dim, 4, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.queries = nn.Linear(dim, config.pools)
        self.counts = nn.Sequential(nn.Linear(config.feature_count, 64), nn.GELU())
        self.dropout = nn.Dropout(config.dropout)
        self.width = dim * (config.pools + 2) + 64 + (32 if self.bigrams is not None else 0)

    def forward(self, ids: Tensor, features: Tensor) -> Tensor:
        """The text as one vector, float32, (batch, width).

        Args:
            ids: int64, (batch, seq), right-padded with 0; seq <= max_tokens.
            features: float32, (batch, feature_count), standardised.
        """
        mask = (ids != 0).to(features.dtype)  # (batch, seq)
        if self.training and self.config.token_dropout > 0:
            kept = torch.rand_like(mask) >= self.config.token_dropout
            mask = mask * kept + mask * (~kept) * (mask.sum(1, keepdim=True) <= 4)
        x = self.embed(ids)
        place = torch.cumsum((ids != 0).to(torch.int64), dim=1)
        count = place[:, -1:]
        x = x + self.from_start((place - 1).clamp(min=0))
        x = x + self.from_end((count - place).clamp(min=0))
        x = x * mask.unsqueeze(-1)
        if self.convolution is not None:
            near = self.convolution(x.transpose(1, 2)).transpose(1, 2)
            x = (x + functional.relu(near)) * mask.unsqueeze(-1)
        blocked = (mask - 1.0) * 1e4
        for layer in self.layers:
            x = layer(x, blocked[:, None, None, :])
        x = self.norm(x)
        total = mask.sum(1, keepdim=True).clamp(min=1.0)
        mean = (x * mask.unsqueeze(-1)).sum(1) / total
        maximum = (x + blocked.unsqueeze(-1)).amax(1).clamp(min=-10.0)
        weights = torch.softmax(self.queries(x) + blocked.unsqueeze(-1), dim=1)
        pooled = (weights.transpose(1, 2) @ x).flatten(1)  # (batch, pools * dim)
        parts = [pooled, mean, maximum, self.counts(features)]
        if self.bigrams is not None:
            pair = (ids[:, :-1] * 31_337 + ids[:, 1:]) % self.config.bigram_buckets
            both = (mask[:, :-1] * mask[:, 1:]).unsqueeze(-1)
            parts.append((self.bigrams(pair) * both).sum(1) / total.sqrt())
        return self.dropout(torch.cat(parts, dim=1))

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings, float32, (batch, seq, dim); export replaces this by an int8 table."""
        out: Tensor = self.tokens(ids)
        return out


class LengthNetwork(nn.Module):
    """The network that ships: `TextEncoder`, then `LengthHead`."""

    def __init__(
        self, config: NetworkConfig, table: Tensor | None, centre: Tensor, spread: Tensor
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
        standard = ((features - self.centre) / self.spread).clamp(-5.0, 5.0)
        out: Tensor = self.encoder(ids, standard)
        return out

    def forward(self, ids: Tensor, features: Tensor, llm: Tensor) -> Tensor:
        """Log tokens, float32, (batch, 4): p10, p50, p90, mean; `llm`: int64, (batch,)."""
        out: Tensor = self.head(self.vector(ids, features), llm)
        return out


class TeacherNetwork(nn.Module):
    """A pretrained encoder, fine-tuned; too slow to serve, good enough to learn from."""

    def __init__(
        self, backbone: Any, llm_count: int, centre: Tensor, spread: Tensor, hidden: int = 384
    ) -> None:
        """`backbone`: a Hugging Face encoder."""
        super().__init__()
        self.backbone = backbone
        size = int(backbone.config.hidden_size)
        self.counts = nn.Sequential(nn.Linear(len(centre), 64), nn.GELU())
        self.head = LengthHead(2 * size + 64, llm_count, hidden, 0.1)
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)

    def vector(self, ids: Tensor, features: Tensor) -> Tensor:
        """The text as a vector: first token, mean of all, and the counts: (batch, width)."""
        mask = (ids != 0).to(features.dtype)
        states = self.backbone(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        states = states.to(features.dtype)
        mean = (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1.0)
        standard = ((features - self.centre) / self.spread).clamp(-5.0, 5.0)
        return torch.cat([states[:, 0], mean, self.counts(standard)], dim=1)
