"""A replica that is killed loses no evidence, and the other one learns and predicts on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import redis
from tests.queue_service.conftest import MODEL, ScriptedWorker
from tests.waiting import eventually

from lengthwise_store.jobs import Claim, Outcome, OutcomeKind
from lengthwise_store.keys import QueueKeys

K = QueueKeys(MODEL)


async def answered(claim: Claim) -> AsyncIterator[bytes | Outcome]:
    length = 5 + 10 * len(json.loads(claim.body)["messages"][-1]["content"])
    yield Outcome(kind=OutcomeKind.OK, prompt_tokens=3, output_tokens=length, service_ms=5.0)


@contextlib.contextmanager
def replica(
    http: httpx.Client, redis_url: str, predictor: str, port: int
) -> Iterator[subprocess.Popen[bytes]]:
    env = os.environ | {
        "LENGTHWISE_QUEUE_REDIS_URL": redis_url,
        "LENGTHWISE_QUEUE_PREDICTOR_URL": predictor,
        "LENGTHWISE_QUEUE_PREDICTOR_TIMEOUT_MS": "5000",
        "LENGTHWISE_QUEUE_PORT": str(port),
    }
    running = subprocess.Popen(
        [sys.executable, "-m", "lengthwise_queue"], env=env, stderr=subprocess.DEVNULL
    )
    try:
        eventually(
            lambda: http.get(f"http://127.0.0.1:{port}/healthz").is_success,
            "the replica answers",
            ignoring=(httpx.TransportError,),
        )
        yield running
    finally:
        running.kill()
        running.wait()


def submit(http: httpx.Client, port: int, number: int) -> None:
    text = "word " * random.Random(number).randint(1, 30)  # noqa: S311
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"{number} {text}"}],
    }
    answer = http.post(f"http://127.0.0.1:{port}/v1/jobs", json={"body": body})
    assert answer.status_code == 202, answer.text


@pytest.mark.slow
def test_a_replica_that_is_killed_loses_no_evidence_and_the_other_one_learns_from_all_of_it(
    redis_url: str, bundled_predictor: str, free_port: Callable[[], int]
) -> None:
    first, second = free_port(), free_port()
    worker = ScriptedWorker(redis_url, MODEL)
    worker.script = answered
    with (
        redis.Redis.from_url(redis_url) as raw,
        httpx.Client(timeout=20) as http,
        replica(http, redis_url, bundled_predictor, first) as doomed,
        replica(http, redis_url, bundled_predictor, second),
    ):
        http.put(f"http://127.0.0.1:{first}/v1/queues/{MODEL}", json={}).raise_for_status()
        worker.start()
        try:
            for number in range(20):
                submit(http, first, number)
            for number in range(20, 30):
                submit(http, second, number)
            # As if it had died in a fit: its lease runs out, and the other one learns.
            raw.set(K.learner, "the killed replica", px=500)
            doomed.kill()
            for number in range(30, 45):
                submit(http, second, number)

            def learned() -> bool:
                count = int(raw.hget(K.meta, "succeeded") or 0)
                return count == 45 and raw.hget(K.meta, "fit") is not None

            eventually(learned, "the other replica learns")
            assert int(raw.hget(K.meta, "evidence") or 0) == 45
            assert raw.llen(K.evidence) == 45
            assert raw.exists(K.views) == 0

            def predicts() -> bool:
                submit(http, second, 1000)
                [job] = raw.zrevrange(K.finished("default"), 0, 0) or [b""]
                return not (raw.hget(K.job(job.decode()), "learning") or b"L/").startswith(b"L/")

            eventually(predicts, "it predicts with what it learned")
        finally:
            worker.stop()
