"""What a queue learns from: kept until its job ends, evidence with the end, and bounded."""

from __future__ import annotations

from typing import Any

import pytest
from tests.queue_service.store.one_queue import OK, RETRY, Q, accept, claim_one, run

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.states import JobState
from lengthwise_store.jobs import Outcome, OutcomeKind
from lengthwise_store.keys import QueueKeys
from lengthwise_store.learning.store import LearningStore
from lengthwise_store.prediction_record import Basis, FitRecord, LearnedPrediction
from lengthwise_store.store import JobStore

K = QueueKeys(Q)
SUBMISSION = bytes(range(256)) * 3  # spaces, zeros and newlines among them
PREDICTION = Prediction(
    model_version="v", p10_tokens=5, p50_tokens=9, p90_tokens=20, mean_tokens=10, rank_score=2.2
)
LEARNING = LearnedPrediction(learned=5.25, young=None, served="learned")


async def accept_with_view(store: JobStore, job_id: str, **changes: Any) -> None:
    basis = Basis(max_tokens=changes.pop("max_tokens", None), learning=LEARNING)
    await accept(
        store, job_id, prediction=PREDICTION, basis=basis, submission=SUBMISSION, **changes
    )


def test_the_view_of_a_job_becomes_evidence_with_its_end_and_returns_with_the_answer(
    redis_url: str,
) -> None:
    async def body(store: JobStore) -> None:
        learning = LearningStore(store.client)
        await accept_with_view(store, "a", max_tokens=10)
        assert await learning.submission(Q, "a") == SUBMISSION
        kept = await store.get(Q, "a")
        assert kept is not None
        assert kept.basis.learning == LEARNING
        await store.finish(Q, (await claim_one(store)).lease, OK, worker_id="w1")
        [one] = await learning.evidence(Q, 10)
        assert (one.job_id, one.tokens, one.censored) == ("a", 10, True)
        assert one.submission == SUBMISSION
        assert await learning.submission(Q, "a") is None
        stats = await store.stats(Q)
        assert stats.counters["evidence"] == 1
        [answer] = stats.answers
        assert (answer.learning, answer.tokens) == (LEARNING, 10)
        assert answer.raw == pytest.approx((5, 9, 20))

    run(body, redis_url)


@pytest.mark.parametrize("end", ["failed", "cancelled", "expired", "returned"])
def test_only_an_answer_is_evidence_and_no_view_outlives_its_job(redis_url: str, end: str) -> None:
    async def body(store: JobStore) -> None:
        learning = LearningStore(store.client)
        await accept_with_view(store, "a", ttl_ms=1000)
        if end == "cancelled":
            await store.cancel(Q, "a")
        elif end == "expired":
            assert store.now_ms is not None
            store.now_ms += 5000
            await store.tick(Q)
        else:
            kind = OutcomeKind.ERROR if end == "failed" else OutcomeKind.RELEASE
            lost = Outcome(kind=kind, error=RETRY.error if end == "failed" else None)
            await store.finish(Q, (await claim_one(store)).lease, lost, worker_id="w1")
        assert await learning.evidence(Q, 10) == []
        waiting = end == "returned"
        assert await learning.submission(Q, "a") == (SUBMISSION if waiting else None)
        if waiting:  # the next attempt answers
            await store.finish(Q, (await claim_one(store)).lease, OK, worker_id="w1")
            assert len(await learning.evidence(Q, 10)) == 1

    run(body, redis_url)


def test_a_job_without_a_view_ends_as_before_and_is_no_evidence(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "old", prediction=PREDICTION, basis=Basis())
        await accept_with_view(store, "new")
        for _ in range(2):
            done = await store.finish(Q, (await claim_one(store)).lease, OK, worker_id="w1")
            assert done.state is JobState.SUCCEEDED
        found = await LearningStore(store.client).evidence(Q, 10)
        assert [one.job_id for one in found] == ["new"]
        assert [a.learning for a in (await store.stats(Q)).answers] == [None, LEARNING]

    run(body, redis_url)


def test_a_late_prediction_brings_its_view(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "a")
        due_ms = await store.reprice(
            Q, "a", slack_ms=1, predicted_tokens=9, predicted_ms=9, prediction=PREDICTION,
            basis=Basis(learning=LEARNING), submission=SUBMISSION,
        )  # fmt: skip
        assert due_ms is not None
        await store.finish(Q, (await claim_one(store)).lease, OK, worker_id="w1")
        [one] = await LearningStore(store.client).evidence(Q, 10)
        assert one.submission == SUBMISSION

    run(body, redis_url)


def test_the_evidence_is_bounded_whatever_comes(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        entries = [b"x 5 0 s"] * 10_200
        await store.client.lpush(K.evidence, *entries)
        await accept_with_view(store, "last")
        await store.finish(Q, (await claim_one(store)).lease, OK, worker_id="w1")
        assert await store.client.llen(K.evidence) == 10_000
        [newest] = await LearningStore(store.client).evidence(Q, 1)
        assert newest.job_id == "last"

    run(body, redis_url)


def test_an_entry_that_cannot_be_read_is_skipped(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await store.client.lpush(K.evidence, b"garbage", b"id 5 0 good", b"id x 0 bad")
        [one] = await LearningStore(store.client).evidence(Q, 10)
        assert one.submission == b"good"

    run(body, redis_url)


def test_what_was_learned_is_published_with_its_fit_and_one_replica_learns_at_a_time(
    redis_url: str,
) -> None:
    async def body(store: JobStore) -> None:
        learning = LearningStore(store.client)
        fit = FitRecord(id="f1", finished=40, samples=40, took_ms=12.5, made_ms=1.0)
        assert await learning.learned(Q) is None
        await learning.publish(Q, fit, b"blob")
        assert await learning.learned(Q) == (fit, b"blob")
        await learning.serve(Q, "learned")
        stats = await store.stats(Q)
        assert (stats.fit, stats.serving, stats.counters["fits"]) == (fit, "learned", 1)
        assert await learning.acquire(Q, "one", 10_000)
        assert not await learning.acquire(Q, "two", 10_000)
        await learning.release(Q, "two")
        assert not await learning.acquire(Q, "two", 10_000)
        await learning.release(Q, "one")
        assert await learning.acquire(Q, "two", 10_000)
        await learning.forget(Q)
        stats = await store.stats(Q)
        assert (stats.fit, stats.serving, await learning.learned(Q)) == (None, "static", None)

    run(body, redis_url)


def test_all_replicas_hash_with_the_same_secret(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        first = await LearningStore(store.client).key()
        assert len(first) == 32
        assert await LearningStore(store.client).key() == first

    run(body, redis_url)
