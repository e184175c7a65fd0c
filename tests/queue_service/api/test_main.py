"""The process: settings from the environment, logs as JSON, and a clean shutdown."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from tests.waiting import eventually

PATIENCE_S = 30.0


@pytest.fixture
def process(
    redis_url: str, free_port: Callable[[], int]
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running queue service in a separate process, and its URL."""
    port = free_port()
    env = os.environ | {
        "LENGTHWISE_QUEUE_REDIS_URL": redis_url,
        "LENGTHWISE_QUEUE_PORT": str(port),
    }
    command = [sys.executable, "-m", "lengthwise_queue"]
    running = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert running.poll() is None, "the queue service ended"
        return httpx.get(f"{url}/healthz").is_success

    eventually(answers, "the queue service answers", ignoring=(httpx.TransportError,))
    yield running, url
    if running.poll() is None:
        running.kill()
    running.communicate()


@pytest.mark.slow
def test_a_sigterm_lets_open_answers_finish_and_exits_with_0(
    process: tuple[subprocess.Popen[str], str], front: Any, delta_of: Callable[..., bytes]
) -> None:
    running, url = process
    asked_to_stop = threading.Event()

    async def script(claim: Any) -> Any:
        yield delta_of("Hel")
        await asyncio.to_thread(asked_to_stop.wait, PATIENCE_S)
        yield delta_of("lo")

    front.worker.script = script  # on the same Valkey
    text = ""
    body = front.chat(stream=True)
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=body, timeout=PATIENCE_S
    ) as answer:
        for piece in answer.iter_text():
            text += piece
            if "Hel" in text and not asked_to_stop.is_set():
                running.send_signal(signal.SIGTERM)
                asked_to_stop.set()
    assert text.endswith("data: [DONE]\n\n")
    _, logged = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 0
    lines = [json.loads(line) for line in logged.splitlines()]
    assert lines[0]["message"] == "queue service starts"
    assert [one["outcome"] for one in lines if one["message"] == "request answered"] == [
        "succeeded"
    ]
