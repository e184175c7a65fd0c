"""`lengthwise doctor` finds what is there and what is missing, and names the remedy."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from lengthwise_cli.main import build
from lengthwise_worker.engines.simulated.batch import SimulatedBatch
from lengthwise_worker.engines.simulated.embedded import SimulatedServer

pytestmark = pytest.mark.slow


def doctor(*flags: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code and the findings by subject."""
    arguments = ["doctor", "--json", *flags]
    done = CliRunner().invoke(build(arguments), arguments)
    return done.exit_code, {finding["subject"]: finding for finding in json.loads(done.output)}


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@contextlib.contextmanager
def engine() -> Iterator[str]:
    server = SimulatedServer(SimulatedBatch(slots=2, tokens_per_s=1000.0), model="tiny")
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def test_it_finds_what_the_local_stack_needs(free_port: Callable[[], int]) -> None:
    code, found = doctor("--port", str(free_port()))
    assert code == 0
    assert {f["verdict"] for f in found.values()} <= {"ok", "note"}
    assert found["Valkey"]["found"].startswith("embedded, version ")
    assert "one prediction in" in found["predictor"]["found"]


def test_a_redis_that_may_lose_jobs_is_missing_with_the_setting_to_change(
    quiet_redis_url: str,
) -> None:
    with redis.Redis.from_url(quiet_redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    code, found = doctor("--redis-url", quiet_redis_url)
    assert code == 1
    assert found["Redis"]["verdict"] == "missing"
    assert "maxmemory-policy noeviction" in found["Redis"]["remedy"]


def test_a_redis_that_answers_is_reported_with_its_version(redis_url: str) -> None:
    code, found = doctor("--redis-url", redis_url)
    assert code == 0
    assert "primaries: 1" in found["Redis"]["found"]


def test_what_does_not_answer_is_missing_with_the_flag_to_correct(
    free_port: Callable[[], int],
) -> None:
    nothing = f"127.0.0.1:{free_port()}"
    code, found = doctor("--redis-url", f"redis://{nothing}", "--engine-url", nothing)
    assert code == 1
    assert "--redis-url" in found["Redis"]["remedy"]
    assert "--engine-url" in found["engine"]["remedy"]


def test_an_engine_without_priority_scheduling_is_noted_with_its_flag() -> None:
    with engine() as url:
        code, found = doctor("--engine-url", url)
    assert code == 0
    assert found["engine"]["found"].startswith("tiny")
    assert found["engine's answer"]["verdict"] == "note"
    assert "--scheduling-policy priority" in found["engine's answer"]["remedy"]


def test_a_port_in_use_is_noted(taken_port: int) -> None:
    code, found = doctor("--port", str(taken_port))
    assert code == 0
    assert found[f"port {taken_port}"]["found"] == "used by another program"
    assert "--port" in found[f"port {taken_port}"]["remedy"]
