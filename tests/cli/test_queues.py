"""`lengthwise queues` against a real queue service."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from tests.waiting import eventually
from typer.testing import CliRunner

from lengthwise_cli.commands.queues import parse_settings
from lengthwise_cli.errors import BadUsage
from lengthwise_cli.main import build
from lengthwise_lab.errors import LabError
from lengthwise_queue.__main__ import make_server
from lengthwise_queue.settings import Settings


@pytest.fixture
def url(redis_url: str) -> Iterator[str]:
    server = make_server(Settings(redis_url=redis_url, port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    eventually(lambda: server.started, "the queue service starts")
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def run(url: str) -> Callable[..., Any]:
    def call(*args: str) -> Any:
        # One variable for every command that calls the service.
        made = CliRunner().invoke(build(args), args, env={"LENGTHWISE_URL": url})
        if made.exception and not isinstance(made.exception, SystemExit):
            raise made.exception
        return made

    return call


def test_settings_are_parsed_as_json_or_words() -> None:
    given = ["max_depth=500", "policy=fcfs", "calibrate=false", "max_wait_ms=", "predictor_url="]
    assert parse_settings(given) == {
        "max_depth": 500,
        "policy": "fcfs",
        "calibrate": False,
        "max_wait_ms": None,
        "predictor_url": None,
    }
    for wrong in ("max_depth", "max_deptj=5"):
        with pytest.raises(BadUsage, match="max_dept"):
            parse_settings([wrong])


def test_a_queue_is_listed_changed_and_removed(url: str, run: Callable[..., Any]) -> None:
    httpx.put(f"{url}/v1/queues/org/m", json={"max_wait_ms": 5000}).raise_for_status()
    assert '"max_depth": 500' in run("queues", "set", "org/m", "max_depth=500").stdout
    shown = httpx.get(f"{url}/v1/queues/org/m").json()
    assert shown["settings_set"] == ["max_depth", "max_wait_ms"]
    assert "org/m" in run("queues", "list").stdout
    with pytest.raises(LabError, match="max_depth"):
        run("queues", "set", "org/m", "max_depth=0")
    assert "removed org/m" in run("queues", "remove", "org/m").stdout
    with pytest.raises(LabError, match="does not exist"):
        run("queues", "remove", "org/m")
