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
    rng = random.Random(number)
    system = rng.choice(list(USUAL))
    text = f"Ticket {number}: {rng.choice(SUBJECTS)} and {rng.choice(SUBJECTS)}, please."
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


def templated(messages: list[dict[str, str]]) -> int:
    """The length of the answer to a request of one of the applications."""
    noise = random.Random(messages[-1]["content"]).uniform(0.7, 1.4)
    return round(USUAL[messages[0]["content"]] * noise)


def unforeseeable(messages: list[dict[str, str]]) -> int:
    """A length that nothing predicts."""
    return round(random.Random(messages[-1]["content"]).lognormvariate(5, 1))


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
def test_what_is_learned_from_templated_traffic_is_promoted_and_orders_better(
    learning_front: Callable[..., Front],
) -> None:
    front = learning_front()
    answer(front, range(40))
    learned(front, 32)
    answer(front, range(40, 160))
    found = serves(front, "learned")
    assert found["tau_learned"] > found["tau_static"] + 0.2
    answer(front, range(160, 230))
    [last] = answer(front, range(230, 231))
    why = front.http.get(f"/v1/jobs/{last}/explain").json()
    assert why["learning"]["served"] == "learned"
    usual = USUAL[ask(230)[0]["content"]]
    assert usual / 3 < why["learning"]["learned_tokens"] < usual * 3
    similar = why["learning"]["similar"]
    assert len(similar) == 5
    assert all(usual / 2 < one["output_tokens"] < usual * 2 for one in similar)
    assert front.metric("learning_serving", service=MODEL, candidate="learned") == 1
    assert front.metric("learning_tau_b", service=MODEL, candidate="served") > 0.3
    assert front.metric("learning_jobs_total", service=MODEL) == 231


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["shadow", "off"])
def test_shadow_learns_and_serves_the_predictor_and_off_keeps_nothing(
    learning_front: Callable[..., Front], mode: str, redis_url: str
) -> None:
    front = learning_front(learning=mode)
    answer(front, range(110))
    with redis.Redis.from_url(redis_url) as raw:
        if mode == "off":
            assert front.http.get(f"/v1/queues/{MODEL}").json()["learning"] is None
            assert raw.exists(K.views, K.evidence, K.learned) == 0
            return
        learned(front, 90)
        answer(front, range(110, 190))
        eventually(lambda: raw.hget(K.meta, "serving") == b"learned", "learned would be served")
        [last] = answer(front, range(190, 191))
        why = front.http.get(f"/v1/jobs/{last}/explain").json()["learning"]
        assert (why["served"], why["serving"]) == ("static", "static")
        assert why["learned_tokens"] is not None
        front.put_queue(learning="off")
        eventually(lambda: raw.exists(K.views, K.evidence, K.learned) == 0, "it is deleted")


@pytest.mark.slow
def test_lengths_that_nothing_predicts_do_not_serve_learned_where_it_is_worse(
    learning_front: Callable[..., Front],
) -> None:
    front = learning_front()
    front.worker.script = answering(unforeseeable)
    answer(front, range(200))
    found = learned(front, 150)
    worse = found["accuracy_learned"] is not None and (
        found["accuracy_learned"] < found["accuracy_static"] - 0.03
    )
    assert not (worse and found["serving"] == "learned")


@pytest.mark.slow
def test_two_replicas_predict_the_same_to_the_last_digit_and_a_restart_loses_nothing(
    learning_front: Callable[..., Front], redis_url: str
) -> None:
    first = learning_front()
    answer(first, range(60))
    learned(first, 32)
    first.worker.stop()
    second = learning_front(worker=False)
    with redis.Redis.from_url(redis_url) as raw:

        def predicted(front: Front) -> tuple[bytes, bytes] | None:
            job = front.submit(messages=ask(1000), max_tokens=4000)
            record = raw.hmget(K.job(job), "learning", "quantiles")
            known = record[0] is not None and not record[0].startswith(b"L/")
            return (record[0], record[1]) if known else None

        want = eventually(lambda: predicted(first), "the first replica predicts")
        fit = raw.hget(K.meta, "fit")
        got = eventually(lambda: predicted(second), "the second replica predicts")
        assert raw.hget(K.meta, "fit") == fit
        assert got[0] == want[0]
        assert got[1].split()[:5] == want[1].split()[:5]


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
    answer(front, range(3))
    with redis.Redis.from_url(redis_url) as raw:
        readable = eventually(
            lambda: found if len(found := raw.lrange(K.evidence, 0, -1)) == 3 else None,
            "the hashed evidence is deleted",
        )

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
