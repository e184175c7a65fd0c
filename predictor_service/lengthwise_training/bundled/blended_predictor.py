"""The bundled model: the network and the kernel, averaged; exported by `int8_export`."""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import torch
from torch import Tensor, nn

from lengthwise_training.bundled.kernel import KernelRegression, KernelView
from lengthwise_training.bundled.network import LengthNetwork

#: Standard deviations from the median to the 10 % and 90 % quantiles of a normal distribution.
Z90 = 1.2816


class BlendedPredictor(nn.Module):
    """Quantiles for an LLM by its row; row 0 is "any other LLM".

    The median is the mean, in logs, of the network's median and the kernel's mean. Spread is the
    network's, widened by factors that make p10 to p90 hold 80 % of unseen samples. Any other LLM is
    the equal mixture of the known ones: their mean, with their disagreement in its spread.
    """

    def __init__(
        self,
        network: LengthNetwork,
        view: KernelView,
        regression: KernelRegression,
        served: list[int],
        *,
        kernel_share: float,
        max_tokens: int,
    ) -> None:
        """Put the parts together.

        Args:
            network: Predicts for every author that it was trained on.
            view: The kernel's view of a text.
            regression: Predicts for the served LLMs only, in their order.
            served: The network's rows of the served LLMs.
            kernel_share: Weight of the kernel in the median, 0 to 1.
            max_tokens: Most token ids of an input.
        """
        super().__init__()
        self.network = network
        self.view = view
        self.regression = regression
        self.kernel_share = kernel_share
        self.max_tokens = max_tokens
        self.register_buffer("served", torch.tensor(served))
        self.register_buffer("widen", torch.ones(2))
        self.register_buffer("widen_any", torch.ones(2))

    def served_llms(self, ids: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute log median, gaps below and above it, and log mean.

        float32, (batch, llms served) each.
        """
        states = self.network.encoder(ids)
        out = self.network.answer(states, features)[:, self.served]  # (batch, llms, 4)
        p10, p50, p90, mean = out.unbind(-1)
        by_kernel = self.regression(self.view(ids, features, states))
        shift = self.kernel_share * (by_kernel - p50)
        return p50 + shift, p50 - p10, p90 - p50, mean + shift

    def forward(self, ids: Tensor, features: Tensor, llm: Tensor) -> Tensor:
        """Compute log tokens, float32, (batch, 4): p10, p50, p90, mean.

        Args:
            ids: int64, (batch, seq), right-padded with 0.
            features: float32, (batch, feature_count), from `text_features`.
            llm: int64, (batch,); 0 is any other LLM, 1 the first served.
        """
        p50, low, high, mean = self.served_llms(ids, features)
        centre = p50.mean(1, keepdim=True)
        apart = (p50 - centre).square().mean(1, keepdim=True) * Z90**2
        any_low = (low.square().mean(1, keepdim=True) + apart).sqrt() * self.widen_any[0]
        any_high = (high.square().mean(1, keepdim=True) + apart).sqrt() * self.widen_any[1]
        everyone = torch.stack(
            [
                torch.cat([centre - any_low, p50 - low * self.widen[0]], dim=1),
                torch.cat([centre, p50], dim=1),
                torch.cat([centre + any_high, p50 + high * self.widen[1]], dim=1),
                torch.cat([mean.mean(1, keepdim=True), mean], dim=1),
            ],
            dim=2,
        )  # (batch, 1 + llms, 4)
        chosen = llm.view(-1, 1, 1).expand(-1, 1, 4)
        return torch.gather(everyone, 1, chosen)[:, 0]
