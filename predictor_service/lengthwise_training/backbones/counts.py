"""Standardises the counts of a text (`lengthwise_predictor.features`) for a network."""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

from torch import Tensor


def standardise(features: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
    """Scale counts to units of their spread, cut at 4, so that an odd text cannot dominate."""
    return ((features - centre) / spread).clamp(-4.0, 4.0)
