"""Batches and background responses when replicas die: real replicas, and a real worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import openai
import pytest
import redis
from tests.waiting import eventually

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0
QUEUE = "simulated"

#: Twice the window, so that a killed replica leaves both started and unread lines.
LINES = 600


class Replicas:
    """Queue services as processes, on one Valkey."""

    def __init__(self, redis_url: str, free_port: Callable[[], int]) -> None:
        self._redis_url, self._free_port = redis_url, free_port
        self._running: list[subprocess.Popen[bytes]] = []
        self._clients: list[openai.OpenAI] = []

    def process(self, module: str, **env: str) -> subprocess.Popen[bytes]:
        running = subprocess.Popen(
            [sys.executable, "-m", module], env=os.environ | env, stderr=subprocess.DEVNULL
        )
        self._running.append(running)
        return running

    def start(self) -> tuple[subprocess.Popen[bytes], openai.OpenAI]:
        port = self._free_port()
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

        eventually(up, "the replica serves", within_s=PATIENCE_S)
        self._clients.append(openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0))
        return running, self._clients[-1]

    def worker(self, tokens_per_s: float) -> None:
        self.process(
            "lengthwise_worker",
            LENGTHWISE_WORKER_REDIS_URL=self._redis_url,
            LENGTHWISE_WORKER_QUEUE=QUEUE,
            LENGTHWISE_WORKER_ENGINE="simulated",
            LENGTHWISE_WORKER_SIMULATED_TOKENS_PER_S=str(tokens_per_s),
            LENGTHWISE_WORKER_SLOTS="8",
        )

    def close(self) -> None:
        for running in self._running:
            running.kill()
            running.wait()
        for client in self._clients:
            client.close()


@pytest.fixture
def replicas(redis_url: str, free_port: Callable[[], int]) -> Iterator[Replicas]:
    made = Replicas(redis_url, free_port)
    yield made
    made.close()


def ask(number: int) -> dict[str, Any]:
    """A line of a batch; every tenth is invalid, which only its own result shows."""
    body: dict[str, Any] = {
        "model": QUEUE,
        "messages": [{"role": "user", "content": f"question {number}"}],
        "vllm_xargs": {"output_tokens": 1},
    }
    if number % 10 == 0:
        body["messages"] = "no list"
    return {
        "custom_id": f"c{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
    }


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "suspended"])
def test_a_batch_continues_at_another_replica_and_runs_each_line_once(
    replicas: Replicas, redis_url: str, fault: signal.Signals
) -> None:
    running, client = replicas.start()
    httpx.put(f"{client.base_url}queues/{QUEUE}", json={}).raise_for_status()
    replicas.worker(tokens_per_s=50)
    text = "".join(json.dumps(ask(number)) + "\n" for number in range(LINES))
    file = client.files.create(file=("in.jsonl", text.encode()), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )

    def done() -> int:
        counts = client.batches.retrieve(batch.id).request_counts
        assert counts is not None
        return counts.completed + counts.failed

    def more_than(share: float) -> bool:
        return done() >= share * LINES

    suspended = []
    for share in (0.1, 0.4):
        eventually(partial(more_than, share), f"{share:.0%} of the lines are done", every_s=0.01)
        running.send_signal(fault)
        suspended.append(running)
        running, client = replicas.start()
        assert client.batches.retrieve(batch.id).status == "in_progress"
    eventually(partial(more_than, 0.7), "70% of the lines are done", every_s=0.01)
    for one in suspended:
        one.send_signal(signal.SIGCONT)  # the suspended replica still works on the batch

    def ended() -> Any:
        now = client.batches.retrieve(batch.id)
        return now if now.status == "completed" else None

    batch = eventually(ended, "the batch is completed", within_s=PATIENCE_S)
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
    assert (view["accepted"], view["succeeded"]) == (540, 540)  # no line was submitted twice
    with redis.Redis.from_url(redis_url) as store:
        assert list(store.scan_iter("lw:batches:*:open")) == []


def test_a_background_response_can_be_read_at_another_replica_when_its_own_is_killed(
    replicas: Replicas,
) -> None:
    doomed, client = replicas.start()
    httpx.put(f"{client.base_url}queues/{QUEUE}", json={}).raise_for_status()
    _, other = replicas.start()
    replicas.worker(tokens_per_s=20)
    seen: list[Any] = []

    def read_until_it_dies() -> None:
        for event in client.responses.create(
            model=QUEUE,
            input="How are you?",
            background=True,
            stream=True,
            extra_body={"vllm_xargs": {"output_tokens": 40}},
        ):
            seen.append(event)
            if len(seen) == 10:
                doomed.kill()

    with pytest.raises((openai.APIError, httpx.HTTPError)):
        read_until_it_dies()
    own = seen[0].response.id
    after = seen[-1].sequence_number
    events = seen + list(other.responses.retrieve(own, stream=True, starting_after=after))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert len(deltas) == 40
    response = other.responses.retrieve(own)
    assert (response.status, response.output_text) == ("completed", "".join(deltas))
    assert response.usage is not None
    assert response.usage.output_tokens == 40
