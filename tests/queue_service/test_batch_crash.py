"""A batch over the death of the processes that work on it: real ones, and a real worker."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
import redis

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0
QUEUE = "simulated"

#: Twice over the window, so that a killed replica leaves both begun and unread lines.
LINES = 600


class Replicas:
    """Queue services in processes of their own, on one Valkey."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._running: list[subprocess.Popen[bytes]] = []

    def process(self, module: str, **env: str) -> subprocess.Popen[bytes]:
        running = subprocess.Popen(
            [sys.executable, "-m", module], env=os.environ | env, stderr=subprocess.DEVNULL
        )
        self._running.append(running)
        return running

    def start(self) -> tuple[subprocess.Popen[bytes], openai.OpenAI]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        running = self.process(
            "lengthwise_queue",
            LENGTHWISE_QUEUE_REDIS_URL=self._redis_url,
            LENGTHWISE_QUEUE_PORT=str(port),
            LENGTHWISE_QUEUE_BATCH_LEASE_MS="2000",
            LENGTHWISE_QUEUE_BATCH_WINDOW="100",
        )
        url = f"http://127.0.0.1:{port}"

        def up() -> bool:
            try:
                return httpx.get(f"{url}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        eventually(up, "the replica serves")
        return running, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)

    def close(self) -> None:
        for running in self._running:
            running.kill()
            running.wait()


def eventually(met: Callable[[], Any], what: str) -> Any:
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        value = met()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail(f"never came true: {what}")


@pytest.fixture
def replicas(redis_url: str) -> Iterator[Replicas]:
    made = Replicas(redis_url)
    yield made
    made.close()


def test_a_batch_survives_kill_9_of_its_replica_and_runs_each_line_once(
    replicas: Replicas, redis_url: str
) -> None:
    doomed, client = replicas.start()
    httpx.put(f"{client.base_url}queues/{QUEUE}", json={}).raise_for_status()
    replicas.process(
        "lengthwise_worker",
        LENGTHWISE_WORKER_REDIS_URL=redis_url,
        LENGTHWISE_WORKER_QUEUE=QUEUE,
        LENGTHWISE_WORKER_ENGINE="simulated",
        LENGTHWISE_WORKER_SLOTS="8",
    )
    items = [
        {
            "custom_id": f"c{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": QUEUE,
                "messages": [{"role": "user", "content": f"question {i}"}],
                "vllm_xargs": {"output_tokens": 1},
                # Every tenth is wrong, which only its own result says.
                **({"temperature": -1} if i % 10 == 0 else {}),
            },
        }
        for i in range(LINES)
    ]
    text = "".join(json.dumps(item) + "\n" for item in items)
    file = client.files.create(file=("in.jsonl", text.encode()), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )

    def done(client: openai.OpenAI) -> int:
        counts = client.batches.retrieve(batch.id).request_counts
        assert counts is not None
        return counts.completed + counts.failed

    for share in (0.1, 0.4):
        goal = share * LINES
        while done(client) < goal:  # bounded by the test's own time limit
            time.sleep(0.01)
        doomed.kill()
        doomed.wait()
        doomed, client = replicas.start()
        assert client.batches.retrieve(batch.id).status == "in_progress"

    def ended() -> Any:
        now = client.batches.retrieve(batch.id)
        return now if now.status == "completed" else None

    batch = eventually(ended, "the batch is completed")
    counts = batch.request_counts
    assert counts is not None
    assert counts.model_dump() == {"total": LINES, "completed": 540, "failed": 60}
    results: list[str] = []
    for file_id in (batch.output_file_id, batch.error_file_id):
        assert file_id is not None
        content = client.files.content(file_id).text
        results += [json.loads(line)["custom_id"] for line in content.splitlines()]
    assert sorted(results) == sorted(f"c{i}" for i in range(LINES))
    view = httpx.get(f"{client.base_url}queues/{QUEUE}").json()
    assert (view["accepted"], view["succeeded"]) == (540, 540)  # no line was handed in twice
    with redis.Redis.from_url(redis_url) as store:
        assert list(store.scan_iter("lw:batches:*:open")) == []
