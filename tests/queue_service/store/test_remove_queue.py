"""The removal of a queue: nothing of it stays, and nobody waits for what is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
from tests.queue_service.store.one_queue import OK, Q, W, accept, claim_one, job, run

from lengthwise_contract.jobs import JobError
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.states import JobState
from lengthwise_store.jobs import Accepted, Draining, EntryKind, Outcome, OutcomeKind
from lengthwise_store.keys import QueueKeys
from lengthwise_store.queues import QueueBusy
from lengthwise_store.store import JobStore

K = QueueKeys(Q)
FAILED = Outcome(kind=OutcomeKind.ERROR, error=JobError(code="x", message="y"))
NOTHING = QueueBusy(waiting=0, scheduled=0, running=0, dead=0, workers=0)


def immortal(url: str) -> list[str]:
    """The keys of the queue that would stay for ever."""
    with redis.Redis.from_url(url) as raw:
        found: Any = raw.scan_iter(f"{K.prefix}*", count=1000)
        return sorted(key.decode() for key in found if raw.pttl(key) == -1)


async def waiting(store: JobStore) -> None:
    await accept(store, "a")


async def scheduled(store: JobStore) -> None:
    await accept(store, "a", delay_ms=1000)


async def running(store: JobStore) -> None:
    await accept(store, "a")
    await claim_one(store)


async def dead(store: JobStore) -> None:
    await accept(store, "a")
    await store.finish(Q, (await claim_one(store)).lease, FAILED, worker_id="w1")


async def served(store: JobStore) -> None:
    await store.beat(Q, worker=W, leases=[])


@pytest.mark.parametrize(
    ("fill", "why"),
    [
        (waiting, {"waiting": 1}),
        (scheduled, {"scheduled": 1}),
        (running, {"running": 1}),
        (dead, {"dead": 1}),
        (served, {"workers": 1}),
    ],
)
def test_a_queue_in_use_is_removed_only_by_force(
    redis_url: str, fill: Callable[[JobStore], Awaitable[None]], why: dict[str, int]
) -> None:
    async def body(store: JobStore) -> None:
        await store.put_queue(Q, QueueSettings())
        await fill(store)
        assert await store.remove_queue(Q) == QueueBusy(**(vars(NOTHING) | why))
        assert await store.queue(Q) is not None
        assert (await store.stats(Q)).mode == "open"
        assert await store.remove_queue(Q, force=True) is None
        assert await store.queues() == []
        assert immortal(redis_url) == []

    run(body, redis_url)


def test_an_empty_queue_is_removed_with_its_past(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await store.put_queue(Q, QueueSettings(record_rows=5))
        await store.publish_engine_facts(Q, "w1", {"max_model_len": 7})
        await store.append_training_rows(Q, [b"{}"], most=5, ttl_ms=60_000)
        for n in range(3):
            await accept(
                store, f"j{n}", tenant=f"t{n}", requests_per_minute=60, idempotency_key=str(n)
            )
            await store.finish(Q, (await claim_one(store)).lease, OK, worker_id="w1")
        await store.beat(Q, worker=W, leases=[])
        store.now_ms = (store.now_ms or 0) + 16_000  # its worker is silent
        await store.tick(Q)
        assert await store.remove_queue(Q) is None
        assert immortal(redis_url) == []
        with redis.Redis.from_url(redis_url) as raw:
            left: Any = raw.keys(f"{K.prefix}*")
            rest = {key.decode().removeprefix(K.prefix).split(":")[0] for key in left}
        # The idempotency keys go with their time; the queue refuses for a moment.
        assert rest <= {"idem", "meta", "ends"}
        await store.put_queue(Q, QueueSettings())
        queue = await store.queue(Q)
        assert queue is not None
        assert (queue.settings, queue.published) == (QueueSettings(), {})
        stats = await store.stats(Q)
        assert (stats.mode, stats.counters, stats.answers) == ("open", {}, [])
        assert isinstance(await store.submit(Q, job("j0", tenant="t0")), Accepted)

    run(body, redis_url)


@pytest.mark.slow
def test_many_jobs_are_removed_in_bounded_steps(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await store.put_queue(Q, QueueSettings())
        jobs = [
            job(f"{n:05}", tenant=f"t{n % 7}", delay_ms=n % 3 * 1000, max_depth=100_000)
            for n in range(1800)
        ]
        for first in range(0, len(jobs), 500):
            await asyncio.gather(*(store.submit(Q, one) for one in jobs[first : first + 500]))
        claims = await store.claim(Q, worker_id="w1", count=900)
        for claim in claims[:550]:
            await store.finish(Q, claim.lease, FAILED, worker_id="w1")
        assert isinstance(await store.remove_queue(Q), QueueBusy)
        assert await store.remove_queue(Q, force=True) is None
        assert immortal(redis_url) == []

    run(body, redis_url)


def test_a_client_that_waits_is_told_and_a_late_worker_has_lost_its_lease(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await store.put_queue(Q, QueueSettings())
        await accept(store, "streams", slack_ms=0)
        await accept(store, "waits", slack_ms=1)
        claim = await claim_one(store)
        await store.emit(Q, claim.lease, [b"one"])
        ends = [
            asyncio.create_task(store.wait_output(Q, "streams", after="0-0", timeout_s=10)),
            asyncio.create_task(store.wait_output(Q, "waits", timeout_s=10)),
        ]
        [first] = await ends[0]
        after = asyncio.create_task(store.wait_output(Q, "streams", after=first.id, timeout_s=10))
        assert await store.remove_queue(Q, force=True) is None
        for end in (await after, await ends[1]):
            assert [entry.kind for entry in end] == [EntryKind.END]
            assert b"queue_removed" in end[0].data
        found = await store.get(Q, "waits")
        assert found is not None
        assert found.state is JobState.CANCELLED
        assert (await store.finish(Q, claim.lease, OK, worker_id="w1")).state is None
        assert await store.claim(Q, worker_id="w1", count=5) == []
        assert immortal(redis_url) == []

    run(body, redis_url)


def test_a_replica_that_has_not_noticed_gets_no_job_into_a_removed_queue(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await store.put_queue(Q, QueueSettings())
        assert await store.remove_queue(Q) is None
        assert await store.submit(Q, job("late")) == Draining()
        await store.beat(Q, worker=W, leases=[])
        await store.tick(Q)
        await store.claim(Q, worker_id="w1", count=1)
        assert immortal(redis_url) == []

    run(body, redis_url)


def test_a_worker_of_a_removed_queue_leaves_nothing_behind(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await store.beat(Q, worker=W, leases=[])
        await store.tick(Q)
        assert await store.claim(Q, worker_id="w1", count=1) == []
        assert immortal(redis_url) == []

    run(body, redis_url)


def test_damaged_keys_do_not_stop_a_removal(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await store.put_queue(Q, QueueSettings())
        for n in range(4):
            await accept(store, f"j{n}", slack_ms=n, delay_ms=0 if n else 500)
        await claim_one(store)
        with redis.Redis.from_url(redis_url) as raw:
            for key in (K.job("j1"), K.job("j2"), K.out("j3")):
                raw.set(key, "x") if key != K.job("j2") else raw.delete(key)
            raw.set(K.out("j3"), "x")
            raw.zadd(K.accepted, {"ghost": 1})
        assert await store.remove_queue(Q, force=True) is None
        assert immortal(redis_url) == []

    run(body, redis_url)
