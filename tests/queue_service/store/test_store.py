"""The store against a real Valkey. Time is `store.now_ms`; nothing sleeps to let it pass."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio as redis
from tests.queue_service.store.one_queue import (
    OK,
    T0,
    Q,
    W,
    accept,
    claim_one,
    job,
    kinds,
    run,
    state_of,
)

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.states import JobState
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import (
    Accepted,
    Claim,
    EntryKind,
    KeyReused,
    LeaseState,
    Outcome,
    OutcomeKind,
    QueueFull,
)
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore


def test_jobs_leave_in_due_order_and_ties_in_submit_order(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a", slack_ms=900.0)
        await accept(store, "0c", slack_ms=50.0)
        await accept(store, "0d", slack_ms=50.0)
        await accept(store, "0b", slack_ms=5.5)
        claims = await store.claim(Q, worker_id="w1", count=10)
        assert [c.lease.job_id for c in claims] == ["0b", "0c", "0d", "0a"]
        assert claims[0].due_ms == T0 + 5.5

    run(body, redis_url)


def test_a_claim_returns_the_body_unchanged_to_the_byte(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        raw = b'{"messages": ["\xc3\xa9", "\\u0000", 1.0],  "x": null}\n'
        await accept(store, "0a", body=raw)
        assert (await claim_one(store)).body == raw

    run(body, redis_url)


def test_submitting_the_same_id_again_is_one_job(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        first = await accept(store, "0a")
        store.now_ms = T0 + 50
        again = await accept(store, "0a")
        assert again.duplicate
        assert (again.accepted_ms, again.due_ms) == (first.accepted_ms, first.due_ms)
        assert (await store.stats(Q)).depth == 1

    run(body, redis_url)


def test_an_idempotency_key_finds_its_job_and_refuses_another_body(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a", idempotency_key="k", fingerprint="f1")
        again = await store.submit(Q, job("0b", idempotency_key="k", fingerprint="f1"))
        assert isinstance(again, Accepted)
        assert (again.id, again.duplicate) == ("0a", True)
        other = await store.submit(Q, job("0c", idempotency_key="k", fingerprint="f2"))
        assert other == KeyReused(id="0a")
        assert (await store.stats(Q)).depth == 1

    run(body, redis_url)


def test_a_full_queue_refuses_and_writes_nothing(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        await accept(store, "0b", delay_ms=1000)
        assert await store.submit(Q, job("0c", max_depth=2)) == QueueFull(depth=2)
        assert await store.get(Q, "0c") is None

    run(body, redis_url)


def test_output_and_result_reach_the_reader_with_exactly_one_end(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        claim = await claim_one(store)
        assert await store.emit(Q, claim.lease, [b"one", b"two"]) is LeaseState.HELD
        done = await store.finish(Q, claim.lease, OK, chunks=[b"three"], worker_id="w1")
        assert done.state is JobState.SUCCEEDED
        entries = await store.read_output(Q, "0a")
        assert [e.data for e in entries[:3]] == [b"one", b"two", b"three"]
        assert [e.kind for e in entries[3:]] == [EntryKind.END]
        want = {"state": "succeeded", "error": None, "prompt_tokens": 3, "output_tokens": 10}
        assert json.loads(entries[3].data) == want
        rest = await store.read_output(Q, "0a", after=entries[1].id)
        assert [e.data for e in rest[:1]] == [b"three"]

    run(body, redis_url)


def test_finish_again_with_the_same_nonce_returns_the_same_and_appends_nothing(
    redis_url: str,
) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        claim = await claim_one(store)
        first = await store.finish(Q, claim.lease, OK, chunks=[b"x"], worker_id="w1")
        again = await store.finish(Q, claim.lease, OK, chunks=[b"x"], worker_id="w1")
        assert first.state is again.state is JobState.SUCCEEDED
        assert await kinds(store, "0a") == [("chunk", 1), ("end", 1)]
        assert (await store.stats(Q)).counters["succeeded"] == 1

    run(body, redis_url)


def test_emit_again_after_a_lost_reply_appends_nothing_twice(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        claim = await claim_one(store)
        await store.emit(Q, claim.lease, [b"1", b"2"])
        store._emitted[claim.lease.nonce] = 0  # as if the reply had been lost
        await store.emit(Q, claim.lease, [b"1", b"2"])
        await store.emit(Q, claim.lease, [b"3"])
        assert [e.data for e in await store.read_output(Q, "0a")] == [b"1", b"2", b"3"]

    run(body, redis_url)


@pytest.mark.parametrize(
    ("delay_ms", "claimed", "want"),
    [(0, False, "cancelled"), (5000, False, "cancelled"), (0, True, "running")],
    ids=["queued", "scheduled", "running"],
)
def test_cancel_returns_the_state_of_the_job(
    redis_url: str, delay_ms: int, claimed: bool, want: str
) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a", delay_ms=delay_ms)
        if claimed:
            await claim_one(store)
        assert await store.cancel(Q, "0a") == want
        assert await store.cancel(Q, "0a") == want
        assert (await store.stats(Q)).backlog_tokens == 0

    run(body, redis_url)


@pytest.mark.parametrize("kind", list(OutcomeKind))
def test_a_job_cancelled_while_running_ends_as_cancelled_whatever_its_worker_reports(
    redis_url: str, kind: OutcomeKind
) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        claim = await claim_one(store)
        await store.cancel(Q, "0a")
        assert await store.emit(Q, claim.lease, [b"x"]) is LeaseState.CANCEL
        assert await store.beat(Q, worker=W, leases=[claim.lease]) == {"0a": LeaseState.CANCEL}
        ended = await store.finish(Q, claim.lease, Outcome(kind=kind), worker_id="w1")
        assert ended.state is JobState.CANCELLED
        assert await store.claim(Q, worker_id="w1", count=1) == []
        assert (await kinds(store, "0a")).count(("end", 1)) == 1

    run(body, redis_url)


def test_a_cancelled_job_of_a_dead_worker_is_not_served_again(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        await claim_one(store)
        await store.cancel(Q, "0a")
        store.now_ms = T0 + 20_000
        await store.tick(Q)
        assert await state_of(store, "0a") is JobState.CANCELLED

    run(body, redis_url)


def test_cancelling_what_is_done_or_unknown_changes_nothing(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        await store.finish(Q, (await claim_one(store)).lease, OK, worker_id="w1")
        assert await store.cancel(Q, "0a") is JobState.SUCCEEDED
        assert await store.cancel(Q, "nope") is None
        assert await kinds(store, "0a") == [("end", 1)]

    run(body, redis_url)


def test_a_deadline_expires_what_waits_and_aborts_what_runs(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a", ttl_ms=1000)
        claim = await claim_one(store)
        await accept(store, "0b", ttl_ms=1000)
        store.now_ms = T0 + 1001
        await store.tick(Q)
        assert await state_of(store, "0b") is JobState.EXPIRED
        assert await store.emit(Q, claim.lease, [b"part"]) is LeaseState.CANCEL
        ended = await store.finish(
            Q, claim.lease, Outcome(kind=OutcomeKind.CANCELLED), worker_id="w1"
        )
        assert ended.state is JobState.EXPIRED
        assert await kinds(store, "0a") == [("chunk", 1), ("end", 1)]

    run(body, redis_url)


def test_a_job_past_its_deadline_is_never_started(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a", ttl_ms=1000)
        store.now_ms = T0 + 1001
        assert await store.claim(Q, worker_id="w1", count=1) == []
        assert await state_of(store, "0a") is JobState.EXPIRED

    run(body, redis_url)


def test_a_delayed_job_is_not_claimed_before_its_time(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        assert (await accept(store, "0a", delay_ms=500)).state is JobState.SCHEDULED
        assert await store.claim(Q, worker_id="w1", count=1) == []
        store.now_ms = T0 + 500
        await store.tick(Q)
        assert (await claim_one(store)).lease.job_id == "0a"

    run(body, redis_url)


@pytest.mark.parametrize(
    "damage",
    [
        lambda r, key: r.hdel(key, "price"),
        lambda r, key: r.hset(key, "runs", "0 many"),
        lambda r, key: r.delete(key),
        lambda r, key: r.set(key, "a string where a hash should be"),
        lambda r, key: r.delete(key.replace("job:", "in:")),
        lambda r, key: r.hset(key, "state", "succeeded"),
    ],
    ids=["no-cost", "bad-number", "no-record", "wrong-type", "no-body", "wrong-state"],
)
def test_a_malformed_record_is_quarantined_and_the_next_job_is_claimed(
    redis_url: str, damage: Callable[[Any, str], Awaitable[Any]]
) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        await accept(store, "0b")
        raw = redis.Redis.from_url(redis_url)
        await damage(raw, f"lw:{{{Q}}}:job:0a")
        claims = await store.claim(Q, worker_id="w1", count=5)
        assert [c.lease.job_id for c in claims] == ["0b"]
        stats = await store.stats(Q)
        assert (stats.dead, stats.counters["quarantined"]) == (1, 1)
        assert stats.backlog_tokens == 0
        error = json.loads(await raw.hget(f"lw:{{{Q}}}:job:0a", "error") or "")
        assert error["code"] == "malformed_record"
        await raw.aclose()

    run(body, redis_url)


def test_a_malformed_record_among_the_leases_does_not_stop_the_tick(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        await accept(store, "0b")
        await store.claim(Q, worker_id="w1", count=2)
        raw = redis.Redis.from_url(redis_url)
        await raw.hdel(f"lw:{{{Q}}}:job:0a", "times")
        await raw.aclose()
        store.now_ms = T0 + 20_000
        report = await store.tick(Q)
        assert report is not None
        assert report.returned == 1
        assert (await claim_one(store)).lease.job_id == "0b"

    run(body, redis_url)


def test_counters_are_the_cardinalities_and_speed_is_measured(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        prediction = Prediction(
            model_version="v", p10_tokens=1, p50_tokens=7, p90_tokens=9, mean_tokens=7, rank_score=0
        )
        for name in ("0a", "0b", "0c"):
            await accept(store, name, predicted_tokens=7.0, prediction=prediction)
        claim = await claim_one(store)
        await store.beat(Q, worker=W, leases=[claim.lease])
        stats = await store.stats(Q)
        assert (stats.depth, stats.in_flight, stats.backlog_tokens) == (2, 1, 14)
        assert (stats.ms_per_token, stats.median_tokens) == (None, None)
        assert stats.oldest_accepted_ms == T0
        assert [w.id for w in stats.workers] == ["w1"]
        await store.finish(Q, claim.lease, OK, worker_id="w1")
        stats = await store.stats(Q)
        assert (stats.ms_per_token, stats.median_tokens) == (20.0, 10)
        assert stats.counters["accepted"] == 3
        assert stats.counters["succeeded"] == 1
        assert "fallbacks" not in stats.counters

    run(body, redis_url)


def test_finish_takes_the_next_job_in_the_same_round_trip(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        await accept(store, "0b")
        claim = await claim_one(store)
        done = await store.finish(Q, claim.lease, OK, worker_id="w1", claim_next=1)
        assert [c.lease.job_id for c in done.next_claims] == ["0b"]

    run(body, redis_url)


def test_scripts_are_loaded_again_after_the_server_lost_them(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        raw = redis.Redis.from_url(redis_url)
        await accept(store, "0a")
        await accept(store, "0b")
        claim = await claim_one(store)
        await raw.script_flush()
        done = await store.finish(Q, claim.lease, OK, worker_id="w1", claim_next=1)
        assert done.state is JobState.SUCCEEDED
        assert len(done.next_claims) == 1
        await raw.aclose()

    run(body, redis_url)


def test_every_key_of_a_finished_job_has_a_time_to_live(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a", idempotency_key="k", fingerprint="f")
        claim = await claim_one(store)
        await store.finish(Q, claim.lease, OK, chunks=[b"x"], worker_id="w1")
        raw = redis.Redis.from_url(redis_url)
        own = [k async for k in raw.scan_iter() if b"0a" in k or b"idem" in k]
        assert len(own) == 3
        assert all([await raw.pttl(key) > 0 for key in own])
        await raw.aclose()

    run(body, redis_url)


def test_position_counts_the_jobs_and_tokens_ahead(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        for i in range(3):
            await accept(store, f"0{i}", slack_ms=float(i), predicted_tokens=10.0 * (i + 1))
        place = await store.position(Q, "02")
        assert place is not None
        assert (place.ahead, place.tokens_ahead) == (2, 30)
        assert await store.position(Q, "nope") is None

    run(body, redis_url)


def test_the_snapshot_has_the_next_the_running_and_the_finished_jobs(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        for i in range(4):
            await accept(store, f"0{i}", slack_ms=float(i))
        first, _ = await store.claim(Q, worker_id="w1", count=2)
        await store.finish(Q, first.lease, OK, worker_id="w1")
        snapshot = await store.snapshot(Q, 10)
        assert [j.id for j in snapshot.waiting] == ["02", "03"]
        assert [j.id for j in snapshot.running] == ["01"]
        assert [(j.id, j.output_tokens) for j in snapshot.finished] == [("00", 10)]

    run(body, redis_url)


def test_queues_are_found_and_jobs_are_found_in_any_of_them(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await store.put_queue(Q, QueueSettings(policy="fcfs"))
        await store.put_queue("b", QueueSettings())
        assert [q.name for q in await store.queues()] == ["b", Q]
        one = await store.queue(Q)
        assert one is not None
        assert one.settings.policy == "fcfs"
        assert await store.queue("nope") is None
        await accept(store, "0a")
        found = await store.find("0a")
        assert found is not None
        assert found.queue == Q
        assert await store.find("0b") is None

    run(body, redis_url)


def test_wait_for_work_wakes_on_a_submit_and_once_for_each_worker_with_work_left(
    redis_url: str,
) -> None:
    async def body(store: JobStore) -> None:
        other = JobStore(redis_url)
        try:
            waits = [asyncio.create_task(s.wait_for_work(Q, 10)) for s in (store, other)]
            await asyncio.sleep(0)
            await accept(store, "0a")
            await accept(store, "0b")
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            assert all(task.result() for task in done)
            await store.claim(Q, worker_id="w1", count=1)
            assert all(await asyncio.gather(*waits))
        finally:
            await other.aclose()

    run(body, redis_url)


def test_wait_for_work_returns_false_at_its_timeout(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        assert not await store.wait_for_work(Q, 0.05)

    run(body, redis_url)


def test_a_cancelled_wait_for_work_returns_and_the_next_one_works(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        wait = asyncio.create_task(store.wait_for_work(Q, 30))
        done, _ = await asyncio.wait([wait], timeout=0.1)
        assert not done
        wait.cancel()
        done, _ = await asyncio.wait([wait], timeout=5)
        assert done
        await accept(store, "0a")
        assert await store.wait_for_work(Q, 10)

    run(body, redis_url)


def test_a_cancellation_is_hinted_to_the_workers(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        assert await store.cancellations(Q, 0.05) == []
        await accept(store, "0a")
        await claim_one(store)
        await store.cancel(Q, "0a")
        assert await store.cancellations(Q, 10) == ["0a"]

    run(body, redis_url)


def test_fifty_readers_each_get_every_entry_of_their_job_once_and_in_order(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        names = [f"{i:02}" for i in range(50)]
        for name in names:
            await accept(store, name)
        claims = await store.claim(Q, worker_id="w1", count=50)

        async def read(name: str) -> list[bytes]:
            got: list[bytes] = []
            after = "0-0"
            while True:
                for entry in await store.wait_output(Q, name, after=after, timeout_s=20):
                    after = entry.id
                    if entry.kind is EntryKind.END:
                        return got
                    got.append(entry.data)

        async def write(claim: Claim) -> None:
            for i in range(10):
                await store.emit(Q, claim.lease, [b"%d" % i])
            await store.finish(Q, claim.lease, OK, worker_id="w1")

        readers = [asyncio.create_task(read(name)) for name in names]
        await asyncio.gather(*(write(claim) for claim in claims))
        want = [b"%d" % i for i in range(10)]
        assert await asyncio.gather(*readers) == [want] * 50

    run(body, redis_url)


def test_two_readers_of_one_job_at_different_places_both_get_the_rest(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "0a")
        claim = await claim_one(store)
        await store.emit(Q, claim.lease, [b"0", b"1"])
        first, second = await store.read_output(Q, "0a")
        waits = [
            asyncio.create_task(store.wait_output(Q, "0a", after=after, timeout_s=10))
            for after in ("0-0", first.id, second.id)
        ]
        done = await asyncio.gather(*waits[:2])
        assert [[e.data for e in entries] for entries in done] == [[b"0", b"1"], [b"1"]]
        await store.emit(Q, claim.lease, [b"2"])
        assert [e.data for e in await waits[2]] == [b"2"]

    run(body, redis_url)


def test_a_redis_that_is_not_there_is_a_store_unavailable_at_once(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.submit(Q, job("0a"))
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.stats(Q)

    run(body, "redis://127.0.0.1:1/0")


def test_a_redis_that_may_evict_is_refused_with_the_setting_to_change(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        raw = redis.Redis.from_url(redis_url)
        await store.check()
        await raw.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(StoreUnavailable, match="noeviction"):
                await store.check()
        finally:
            await raw.config_set("maxmemory-policy", "noeviction")
            await raw.aclose()

    run(body, redis_url)


def test_many_callers_tick_once_in_an_interval(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        reports = [await store.tick(Q) for _ in range(3)]
        assert [r is not None for r in reports] == [True, False, False]

    async def main() -> None:
        store = JobStore(redis_url, StoreSettings(tick_ms=60_000))
        try:
            await body(store)
        finally:
            await store.aclose()

    asyncio.run(main())


def test_a_full_redis_refuses_a_job_as_unavailable_and_writes_nothing(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        raw = redis.Redis.from_url(redis_url)
        await accept(store, "0a")
        await raw.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(StoreUnavailable):
                await store.submit(Q, job("0b"))
        finally:
            await raw.config_set("maxmemory", "0")
        assert await store.get(Q, "0b") is None
        assert (await store.stats(Q)).depth == 1
        await raw.aclose()

    run(body, redis_url)
