"""A queue that learns from its finished jobs: real Valkey, real predictor, scripted engine."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from tests.queue_service.conftest import MODEL, Front
from tests.waiting import eventually

from lengthwise_queue.learning import learner
from lengthwise_store.jobs import Claim, Outcome, OutcomeKind
from lengthwise_store.keys import LEARNING_KEY, QueueKeys

K = QueueKeys(MODEL)

#: Usual lengths of three applications that differ only in their system prompts, tokens.
USUAL = {"You label tickets.": 12, "You answer customers.": 150, "You write full reports.": 900}

SUBJECTS = [
    "parcels",
    "invoices",
    "refunds",
    "passwords",
    "screens",
    "cables",
    "batteries",
    "printers",
    "seats",
    "menus",
]


def ask(number: int) -> list[dict[str, str]]:
    """The messages of one request."""
    rng = random.Random(number)  # noqa: S311
    system = rng.choice(list(USUAL))
    text = f"Ticket {number}: {rng.choice(SUBJECTS)} and {rng.choice(SUBJECTS)}, please."
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


def templated(messages: list[dict[str, str]]) -> int:
    """The length of the answer to a request of one of the applications."""
    noise = random.Random(messages[-1]["content"]).uniform(0.7, 1.4)  # noqa: S311
    return round(USUAL[messages[0]["content"]] * noise)


def answering(length: Callable[[list[dict[str, str]]], int]) -> Callable[[Claim], Any]:
    """An engine whose answers have these lengths."""

    async def script(claim: Claim) -> AsyncIterator[bytes | Outcome]:
        tokens = length(json.loads(claim.body)["messages"])
        yield Outcome(kind=OutcomeKind.OK, prompt_tokens=3, output_tokens=tokens, service_ms=5.0)

    return script


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "EVERY_S", 0.1)


@pytest.fixture
def learning_front(
    make_front: Callable[..., Front], bundled_predictor: str, often: None
) -> Callable[..., Front]:
    """Starts a queue service that learns; keywords are settings of the queue."""

    def make(worker: bool = True, **settings: Any) -> Front:
        # A busy machine must not turn predictions into fallbacks.
        front = make_front(predictor_url=bundled_predictor, predictor_timeout_ms=5000)
        front.put_queue(**settings)
        front.worker.script = answering(templated)
        if worker:
            front.worker.start()
        return front

    return make


def answer(front: Front, numbers: range) -> list[str]:
    """Submit requests and wait for their answers."""
    ids = [front.submit(messages=ask(number), max_tokens=4000) for number in numbers]
    for one in ids:
        assert front.ended(one)["state"] == "succeeded"
    return ids


def learned(front: Front, jobs: int) -> dict[str, Any]:
    """Wait until a fit rests on so many jobs. Returns what the queue learned."""

    def view() -> dict[str, Any] | None:
        found = front.http.get(f"/v1/queues/{MODEL}").json()["learning"]
        return dict(found) if found["fitted_jobs"] >= jobs else None

    return eventually(view, f"a fit of {jobs} jobs")


def serves(front: Front, candidate: str) -> dict[str, Any]:
    def view() -> dict[str, Any] | None:
        found = front.http.get(f"/v1/queues/{MODEL}").json()["learning"]
        return dict(found) if found["serving"] == candidate else None

    return eventually(view, f"{candidate} is served")


@pytest.mark.slow
def test_templated_traffic_is_learned_and_served_by_all_replicas_alike_until_it_is_turned_off(
    learning_front: Callable[..., Front], redis_url: str
) -> None:
    front = learning_front()
    answer(front, range(36))
    learned(front, 32)
    answer(front, range(36, 108))
    found = serves(front, "learned")
    assert found["tau_learned"] > found["tau_static"] + 0.2

    def newest() -> dict[str, Any] | None:
        [last] = answer(front, range(108, 109))
        return served_as(front, last, "learned")

    why = eventually(newest, "a job is served as learned")
    usual = USUAL[ask(108)[0]["content"]]
    assert usual / 3 < why["learned_tokens"] < usual * 3
    assert len(why["similar"]) == 5
    assert all(usual / 2 < one["output_tokens"] < usual * 2 for one in why["similar"])
    assert front.metric("learning_serving", service=MODEL, candidate="learned") == 1
    assert front.metric("learning_tau_b", service=MODEL, candidate="served") is not None
    assert front.metric("learning_jobs_total", service=MODEL) >= 109

    # Another replica reads what was learned, as does one that is started again.
    front.worker.stop()
    second = learning_front(worker=False)
    with redis.Redis.from_url(redis_url) as raw:

        def predicted(one: Front) -> tuple[bytes, bytes] | None:
            job = one.submit(messages=ask(1000), max_tokens=4000)
            record = raw.hmget(K.job(job), "learning", "quantiles")
            known = record[0] is not None and record[0].endswith(b"/learned")
            return (record[0], record[1]) if known else None

        want = eventually(lambda: predicted(front), "the first replica predicts")
        got = eventually(lambda: predicted(second), "the second replica predicts")
        assert got == want

        front.put_queue(learning="shadow")
        job = front.submit(messages=ask(1001))
        assert raw.hget(K.job(job), "learning").endswith(b"/static")
        assert raw.exists(K.evidence, K.learned) == 2
        front.put_queue(learning="off")
        eventually(lambda: raw.exists(K.views, K.evidence, K.learned) == 0, "it is deleted")
        assert front.http.get(f"/v1/queues/{MODEL}").json()["learning"] is None
        job = front.submit(messages=ask(1002))
        assert raw.hget(K.job(job), "learning") is None
        assert raw.exists(K.views) == 0


def served_as(front: Front, job: str, candidate: str) -> dict[str, Any] | None:
    found = front.http.get(f"/v1/jobs/{job}/explain").json()["learning"]
    return dict(found) if found["served"] == candidate else None


def test_no_prompt_and_no_word_of_it_can_be_read_from_what_is_kept(
    learning_front: Callable[..., Front], redis_url: str
) -> None:
    front = learning_front()
    answer(front, range(3))
    with redis.Redis.from_url(redis_url) as raw:
        kept = b"".join(raw.lrange(K.evidence, 0, -1))
        assert len(kept) > 1000
        assert not any(word.encode() in kept for word in [*SUBJECTS, "customers", MODEL])
        hashed = raw.lrange(K.evidence, 0, -1)
        assert raw.get(LEARNING_KEY) not in kept
    front.put_queue(keep_words="readable")
    with redis.Redis.from_url(redis_url) as raw:
        eventually(lambda: raw.hget(K.meta, "words") == b"readable", "the evidence is deleted")
        answer(front, range(3))
        readable = raw.lrange(K.evidence, 0, -1)
        assert len(readable) == 3

    def words(entry: bytes) -> bytes:
        return entry[-40:]

    assert {words(one) for one in hashed}.isdisjoint(words(one) for one in readable)


def test_a_queue_without_views_serves_as_before(
    make_front: Callable[..., Front], often: None
) -> None:
    front = make_front(predictor_url=None)
    front.put_queue()
    front.worker.start()
    job = front.submit(messages=ask(1))
    assert front.ended(job)["state"] == "succeeded"
    assert front.http.get(f"/v1/jobs/{job}/explain").json()["learning"] is None
