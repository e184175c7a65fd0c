"""Tokenizers of backbones, without padding and truncation."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from lengthwise_predictor.settings import BUNDLED


def special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer puts before a text, and after it."""
    word = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    start = next(i for i in range(len(full)) if full[i : i + len(word)] == word)
    return full[:start], full[start + len(word) :]


def bundled_tokenizer() -> Tokenizer:
    """Load the tokenizer of the bundled model, which the tiny network shares."""
    return without_padding(Tokenizer.from_file(str(BUNDLED / "tokenizer.json")))


def tokenizer_of(where: str) -> Tokenizer:
    """Load the fast tokenizer of a folder or hub id, without padding and truncation."""
    path = Path(where) / "tokenizer.json"
    if path.is_file():
        return without_padding(Tokenizer.from_file(str(path)))
    from transformers import AutoTokenizer

    return without_padding(AutoTokenizer.from_pretrained(where).backend_tokenizer)


def without_padding(tokenizer: Tokenizer) -> Tokenizer:
    """Turn off padding and truncation, in place, and return the tokenizer."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
