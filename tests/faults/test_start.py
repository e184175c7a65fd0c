"""Processes that must not start, and that report the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import Servers

PROCESSES = [
    pytest.param("lengthwise_queue", {"PORT": "0"}, id="queue service"),
    pytest.param("lengthwise_worker", {"QUEUE": "m", "ENGINE": "simulated"}, id="worker"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("module", "env"), PROCESSES)
@pytest.mark.parametrize(
    ("config", "durability", "want"),
    [
        pytest.param(
            {"maxmemory-policy": "allkeys-lru"}, "async", "maxmemory-policy noeviction", id="evicts"
        ),
        pytest.param({}, "always", "appendfsync always", id="not durable enough"),
    ],
)
def test_a_process_does_not_start_on_a_redis_that_contradicts_its_promises(
    servers: Servers,
    module: str,
    env: dict[str, str],
    config: dict[str, str],
    durability: str,
    want: str,
) -> None:
    server = servers.start()
    for name, value in config.items():
        server.ask("CONFIG", "SET", name, value)
    prefix = "LENGTHWISE_QUEUE_" if module == "lengthwise_queue" else "LENGTHWISE_WORKER_"
    fields = env | {"REDIS_URL": server.url, "DURABILITY": durability}
    ended = subprocess.run(
        [sys.executable, "-m", module],
        env=os.environ | {prefix + name: value for name, value in fields.items()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert want in ended.stderr + ended.stdout
