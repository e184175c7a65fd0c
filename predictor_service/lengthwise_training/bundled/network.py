"""The bundled model's network: the tuned encoder, and quantiles for every author at once.

Called by `network_training` and `blended_predictor`. One pass over a text predicts for all LLMs, so
the lengths of one LLM also improve the predictions for the others.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lengthwise_training.backbones.counts import standardise
from lengthwise_training.backbones.pretrained import Encoder

#: Width of what the counts become before they join the encoder's state.
COUNTS_WIDTH = 64

#: What distinguishes one author from all authors learns slower by this factor.
OWN_SHARE = 0.5


class LengthHead(nn.Module):
    """Maps a text vector to log quantiles and log mean: p10 <= p50 <= p90 by construction."""

    def __init__(self, width: int, centre: Tensor, spread: Tensor) -> None:
        """Start at the usual length of each author.

        Args:
            width: Of the text vector.
            centre: float32, (authors,), usual log length.
            spread: float32, (authors,), its standard deviation over prompts, > 0.
        """
        super().__init__()
        self.shared = nn.Linear(width, 4)
        self.own = nn.Linear(width, 4 * len(centre))
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)
        nn.init.normal_(self.shared.weight, std=0.01)
        with torch.no_grad():
            self.shared.bias.copy_(torch.tensor([0.0, -0.5, -0.5, 0.0]))
        nn.init.zeros_(self.own.weight)
        nn.init.zeros_(self.own.bias)

    def forward(self, vector: Tensor) -> Tensor:
        """Compute log tokens for every author, float32, (batch, authors, 4): p10, p50, p90, mean.

        Args:
            vector: float32, (batch, width).
        """
        own = self.own(vector).reshape(vector.shape[0], -1, 4)
        place, low, high, above = (self.shared(vector).unsqueeze(1) + OWN_SHARE * own).unbind(-1)
        return self.centre.view(1, -1, 1) + self.spread.view(1, -1, 1) * torch.stack(
            [
                place - functional.softplus(low),
                place,
                place + functional.softplus(high),
                place + above,
            ],
            dim=-1,
        )


class LengthNetwork(nn.Module):
    """The tuned encoder's state and the counts, then `LengthHead`."""

    def __init__(
        self,
        encoder: Encoder,
        head: tuple[Tensor, Tensor],
        counts: tuple[Tensor, Tensor],
        *,
        dropout: float,
    ) -> None:
        """Put the parts together.

        Args:
            encoder: Reads the text.
            head: `centre` and `spread` of `LengthHead`.
            counts: float32, (feature_count,) each: centre and spread of the counts.
            dropout: Share of the text vector dropped in training.
        """
        super().__init__()
        self.encoder = encoder
        self.register_buffer("centre", counts[0])
        self.register_buffer("spread", counts[1])
        self.counts = nn.Sequential(nn.Linear(len(counts[0]), COUNTS_WIDTH), nn.GELU())
        self.dropout = nn.Dropout(dropout)
        self.head = LengthHead(encoder.places.shape[1] + COUNTS_WIDTH, *head)

    def answer(self, states: Tensor, features: Tensor) -> Tensor:
        """Compute log tokens for every author, float32, (batch, authors, 4), from `states`.

        `states`: the encoder's, float32, (batch, width).
        """
        counts = self.counts(standardise(features, self.centre, self.spread))
        # MiniLM's states have a length of about 1; times 1.5 they match the scale of the counts.
        out: Tensor = self.head(self.dropout(torch.cat([1.5 * states, counts], dim=1)))
        return out

    def forward(self, ids: Tensor, features: Tensor) -> Tensor:
        """Compute log tokens for every author, float32, (batch, authors, 4): p10, p50, p90, mean.

        Args:
            ids: int64, (batch, seq), right-padded with 0.
            features: float32, (batch, feature_count), from `text_features`.
        """
        return self.answer(self.encoder(ids), features)
