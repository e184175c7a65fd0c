"""A head that predicts a histogram of lengths."""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from lengthwise_training.objectives.config import TaskConfig
from lengthwise_training.objectives.head import QUANTILES, Head, LengthBatch
from lengthwise_training.objectives.losses import edge_renormalised_kernel, histogram_kl
from lengthwise_training.objectives.objective import Objective


class Histogram(Head):
    """Shares of bins; quantiles are interpolated between the bins' edges."""

    def __init__(
        self, edges: NDArray[np.float64], lengths: NDArray[np.float32], sigma_bins: float
    ) -> None:
        """`edges`: float64, (bins + 1,), tokens, rising, > 0; the last bin holds longer answers."""
        super().__init__()
        self.outputs = len(edges) - 1
        self.register_buffer("inner", torch.tensor(edges[1:-1], dtype=torch.float32))
        self.register_buffer("log_edges", torch.tensor(edges, dtype=torch.float32).log())
        centres = torch.tensor((edges[1:] + edges[:-1]) / 2, dtype=torch.float32)
        self.register_buffer("centres", centres)
        kernel = edge_renormalised_kernel(self.outputs, sigma_bins)
        self.register_buffer("kernel", kernel, persistent=False)
        label = np.searchsorted(edges[1:-1], lengths, side="right")
        counts = np.bincount(label, minlength=self.outputs)
        self.usual = torch.tensor(counts / counts.sum(), dtype=torch.float32) @ kernel

    @override
    def start(self) -> Tensor:
        return self.usual.clamp(min=1e-5).log()

    def label(self, tokens: Tensor) -> Tensor:
        """Return the bin of each length, int64, of the shape of `tokens`."""
        return torch.searchsorted(self.inner, tokens.contiguous(), right=True)

    @override
    def loss(self, raw: Tensor, batch: LengthBatch) -> Tensor:
        label = self.label(batch.tokens)
        return histogram_kl(raw, label, batch.cut, batch.known, self.kernel)

    def quantile(self, share: Tensor, quantile: float) -> Tensor:
        """Return the log tokens at a quantile: float32, (batch,); `share`: (batch, bins)."""
        below = share.cumsum(1)
        # Rounding may leave the sum below the quantile: then the last bin counts, not the first.
        at = (below < quantile).sum(1, keepdim=True).clamp(max=self.outputs - 1)
        bin_share = share.gather(1, at)
        part = (quantile - (below.gather(1, at) - bin_share)) / bin_share.clamp(min=1e-9)
        low, high = self.log_edges[at], self.log_edges[at + 1]
        return (low + part.clamp(0.0, 1.0) * (high - low)).squeeze(1)

    @override
    def middle(self, raw: Tensor) -> Tensor:
        return self.quantile(functional.softmax(raw, dim=-1), 0.5)

    @override
    def decode(self, raw: Tensor) -> Tensor:
        share = functional.softmax(raw, dim=-1)
        p10, p50, p90 = (self.quantile(share, q) for q in QUANTILES)
        return torch.stack([p50, p50 - p10, p90 - p50, (share @ self.centres).log()], dim=1)


_ANSWERS = "It predicts a histogram of lengths and answers with its quantiles."


def _log_bins(lengths: NDArray[np.float32], config: TaskConfig) -> Histogram:
    edges = np.geomspace(1.0, 2 * config.label_max_tokens, config.bins + 1)
    return Histogram(edges, lengths, config.sigma_bins)


def _linear_bins(lengths: NDArray[np.float32], config: TaskConfig) -> Histogram:
    edges = np.linspace(0, config.label_max_tokens, config.linear_bins + 1)
    edges[0] = 0.5
    width = config.label_max_tokens / config.linear_bins
    return Histogram(edges, lengths, config.sigma_tokens / width)


LOG_BINS = Objective(_log_bins, _ANSWERS)
LINEAR_BINS = Objective(_linear_bins, _ANSWERS)
