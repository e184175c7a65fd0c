"""Leases: a claim that is lost, runs out or is kept, and the attempts that it costs."""

from __future__ import annotations

import redis.asyncio as redis
from tests.queue_service.store.one_queue import (
    OK,
    RETRY,
    T0,
    Q,
    W,
    accept,
    claim_one,
    kinds,
    run,
    state_of,
)

from lengthwise_contract.states import JobState
from lengthwise_store.jobs import (
    Lease,
    LeaseState,
    Outcome,
    OutcomeKind,
)
from lengthwise_store.store import JobStore


def test_a_worker_that_is_ahead_of_the_record_has_lost_its_claim(redis_url: str) -> None:
    # A failover lost two pieces: appending the third would leave a silent gap in the answer.
    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        claim = await claim_one(store)
        await store.emit(Q, claim.lease, [b"1"])
        store._emitted[claim.lease.nonce] = 3
        assert await store.emit(Q, claim.lease, [b"4"]) is LeaseState.LOST
        store._emitted[claim.lease.nonce] = 3
        assert (await store.finish(Q, claim.lease, OK, chunks=[b"4"], worker_id="w")).state is None
        store.now_ms = T0 + 20_000
        await store.tick(Q)
        assert (await claim_one(store)).lease.attempt == 2

    run(body, redis_url)


def test_a_lost_claim_stays_lost_even_if_the_server_still_has_it(redis_url: str) -> None:
    """After LOST the store counted from zero: the output of a claim began with its second piece.

    The new primary had the claim, but not its pieces.
    """

    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        lease = (await claim_one(store)).lease
        assert await store.emit(Q, lease, [b"1"]) is LeaseState.HELD
        async with redis.Redis.from_url(redis_url) as client:
            await client.hdel(f"lw:{{{Q}}}:job:0a", "emitted")
            await client.delete(f"lw:{{{Q}}}:out:0a")
        assert await store.emit(Q, lease, [b"2"]) is LeaseState.LOST
        assert await store.emit(Q, lease, [b"3"]) is LeaseState.LOST
        assert (await store.finish(Q, lease, OK, worker_id="w1")).state is None
        assert await store.read_output(Q, "0a") == []

    run(body, redis_url)


def test_a_lease_that_runs_out_returns_the_job_with_its_original_due_time(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a", slack_ms=100.0)
        old = await claim_one(store)
        store.now_ms = T0 + 14_999
        await accept(store, "0b", slack_ms=0.0)
        report = await store.tick(Q)
        assert report is not None
        assert report.returned == 0
        store.now_ms = T0 + 15_001
        report = await store.tick(Q)
        assert report is not None
        assert report.returned == 1
        claims = await store.claim(Q, worker_id="w2", count=2)
        assert [(c.lease.job_id, c.lease.attempt) for c in claims] == [("0a", 2), ("0b", 1)]
        assert claims[0].due_ms == T0 + 100
        assert claims[0].lease.nonce != old.lease.nonce

    run(body, redis_url)


def test_every_report_of_a_stale_worker_is_answered_lost(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        old = await claim_one(store)
        store.now_ms = T0 + 20_000
        await store.tick(Q)
        new = await claim_one(store)
        assert await store.emit(Q, old.lease, [b"ghost"]) is LeaseState.LOST
        assert await store.beat(Q, worker=W, leases=[old.lease]) == {"0a": LeaseState.LOST}
        assert (await store.finish(Q, old.lease, OK, chunks=[b"g"], worker_id="w1")).state is None
        await store.finish(Q, new.lease, OK, chunks=[b"real"], worker_id="w2")
        entries = await store.read_output(Q, "0a")
        assert [(e.kind.value, e.data) for e in entries[:-1]] == [
            ("attempt", b""),
            ("chunk", b"real"),
        ]

    run(body, redis_url)


def test_a_stale_lease_with_the_right_attempt_number_but_another_nonce_is_lost(
    redis_url: str,
) -> None:
    # After a failover that lost a claim, a second worker gets the same attempt number.
    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        mine = await claim_one(store)
        twin = Lease(job_id="0a", nonce="another", attempt=mine.lease.attempt)
        assert (await store.finish(Q, twin, OK, worker_id="w2")).state is None
        assert await state_of(store, "0a") is JobState.RUNNING

    run(body, redis_url)


def test_beats_keep_a_long_answer_leased(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        claim = await claim_one(store)
        for step in range(1, 20):
            store.now_ms = T0 + step * 5000
            assert await store.beat(Q, worker=W, leases=[claim.lease]) == {"0a": LeaseState.HELD}
            await store.tick(Q)
        assert await state_of(store, "0a") is JobState.RUNNING

    run(body, redis_url)


def test_a_poison_job_fails_after_its_attempts_with_the_reason(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a", max_attempts=2)
        for _ in range(2):
            await claim_one(store)
            assert store.now_ms is not None
            store.now_ms += 20_000
            await store.tick(Q)
        assert await store.claim(Q, worker_id="w1", count=1) == []
        found = await store.get(Q, "0a")
        assert found is not None
        assert found.state is JobState.FAILED
        assert found.error is not None
        assert found.error.code == "lease_expired"
        assert (await store.stats(Q)).dead == 1

    run(body, redis_url)


def test_retry_waits_its_delay_and_spends_an_attempt(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a", max_attempts=2)
        claim = await claim_one(store)
        later = Outcome(kind=OutcomeKind.RETRY, delay_ms=3000, error=RETRY.error)
        ended = await store.finish(Q, claim.lease, later, worker_id="w1")
        assert ended.state is JobState.SCHEDULED
        await store.tick(Q)
        assert await store.claim(Q, worker_id="w1", count=1) == []
        store.now_ms = T0 + 3001
        await store.tick(Q)
        claim = await claim_one(store)
        assert claim.due_ms == T0
        ended = await store.finish(Q, claim.lease, later, worker_id="w1")
        assert ended.state is JobState.FAILED
        assert (await kinds(store, "0a"))[-1] == ("end", 2)

    run(body, redis_url)


def test_release_spends_no_attempt_however_often(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a", max_attempts=1)
        for _ in range(5):
            claim = await claim_one(store)
            ended = await store.finish(
                Q, claim.lease, Outcome(kind=OutcomeKind.RELEASE), worker_id="w1"
            )
            assert ended.state is JobState.QUEUED
        found = await store.get(Q, "0a")
        assert found is not None
        assert (found.attempt, found.spent) == (5, 0)

    run(body, redis_url)
