"""The overtaking bound of a long answer that finds a long queue, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lengthwise_contract.explanation import Explanation
from lengthwise_contract.prediction import PredictBatchResponse, Prediction
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.queue_views import WorkerView
from lengthwise_store.jobs import Accepted, NewJob, Outcome, OutcomeKind
from lengthwise_store.store import JobStore

Front = Any  # tests/queue_service/conftest.py

#: The answers of the queue: (predicted, real) tokens. The mean prediction is 20.
RIGHT = [(10.0, 10)] * 30 + [(50.0, 50)] * 10
COIN = [(10.0, 10), (10.0, 50), (50.0, 10), (50.0, 50)] * 10
#: The cost of a token, ms; the slots; and the tokens that wait when the job is submitted.
PACE_MS, SLOTS, WAITING = 10.0, 2, 4000.0
K, WAIT_FACTOR = QueueSettings().overtake_factor, QueueSettings().overtake_wait_factor


def sure_of(tokens: float) -> Prediction:
    return Prediction(
        model_version="v1",
        p10_tokens=tokens,
        p50_tokens=tokens,
        p90_tokens=tokens,
        mean_tokens=tokens,
        rank_score=tokens,
    )


class _Sixty(BaseHTTPRequestHandler):
    """Predicts 60 tokens, three times the usual, for one prompt a call."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = PredictBatchResponse(predictions=[sure_of(60)]).model_dump_json().encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write no log."""


@contextlib.contextmanager
def predictor() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sixty)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def job(number: int, tokens: float) -> NewJob:
    return NewJob(
        id=f"{number:06}",
        endpoint="/v1/completions",
        body=b"{}",
        job_class="interactive",
        slack_ms=K * PACE_MS * tokens,
        predicted_tokens=tokens,
        predicted_ms=PACE_MS * tokens,
        prediction=sure_of(tokens),
        max_attempts=1,
        delay_ms=0,
        ttl_ms=600_000,
        max_depth=1000,
    )


async def fill(url: str, queue: str, answered: list[tuple[float, int]]) -> None:
    """Answer these, then leave `WAITING` tokens in the queue and all `SLOTS` slots busy."""
    store = JobStore(url)
    try:
        await store.put_queue(queue, QueueSettings(calibrate=False))
        for number, (predicted, tokens) in enumerate(answered):
            assert isinstance(await store.submit(queue, job(number, predicted)), Accepted)
            [claim] = await store.claim(queue, worker_id="w", count=1)
            done = Outcome(kind=OutcomeKind.OK, output_tokens=tokens, service_ms=PACE_MS * tokens)
            await store.finish(queue, claim.lease, done, worker_id="w")
        for number in range(10):
            await store.submit(queue, job(1000 + number, WAITING / 10))
        view = WorkerView(id="w", slots=SLOTS, running=SLOTS, engine="none", seen_ms=0)
        await store.beat(queue, worker=view, leases=[])
    finally:
        await store.aclose()


def explained(make_front: Callable[..., Front], predictor: str, **settings: Any) -> Explanation:
    """Submit a job predicted to have three times the usual length, and return its explanation."""
    front = make_front(predictor_url=predictor, predictor_timeout_ms=5000)
    if settings:
        front.put_queue(calibrate=False, **settings)
    found = front.http.get(f"/v1/jobs/{front.submit()}/explain").json()
    assert front.metric("overtake_bound_seconds_count", service=front.model) == 1
    return Explanation.model_validate(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answered", "settings", "want_ms"),
    [
        # 4,000 tokens of 10 ms over 2 slots; the wait factor; 1 - 1 / (1 + 3^8) of it.
        (RIGHT, {}, WAIT_FACTOR * 20_000 * 6561 / 6562),
        (RIGHT, {"overtake_wait_factor": 0}, K * 600),
        (RIGHT[:20], {}, K * 600),
        (COIN, {}, K * 600),
    ],
    ids=["good predictions", "switched off", "few answers", "a coin"],
)
def test_the_bound_of_a_long_answer_follows_the_queue_that_it_found(
    redis_url: str,
    make_front: Callable[..., Front],
    answered: list[tuple[float, int]],
    settings: dict[str, Any],
    want_ms: float,
) -> None:
    asyncio.run(fill(redis_url, "org/model-1.5", answered))
    with predictor() as url:
        seen = explained(make_front, url, **settings)
    assert seen.predicted_tokens == pytest.approx(60)
    assert seen.overtake_bound_ms == pytest.approx(want_ms, rel=1e-3)
    assert seen.due_ms == pytest.approx(seen.accepted_ms + seen.overtake_bound_ms, abs=0.01)
    assert f"{want_ms / 1000:.1f} s after it" in seen.why
