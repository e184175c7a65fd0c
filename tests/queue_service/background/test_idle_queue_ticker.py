"""A queue without workers is ticked, on a real Valkey; the time is `store.now_ms`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
import redis.asyncio as redis

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.queue_views import WorkerView
from lengthwise_contract.states import JobState
from lengthwise_queue.background import idle_queue_ticker as module
from lengthwise_queue.background.idle_queue_ticker import IdleQueueTicker
from lengthwise_store.jobs import NewJob
from lengthwise_store.keys import QueueKeys
from lengthwise_store.store import JobStore

if TYPE_CHECKING:
    from tests.queue_service.conftest import Front

Q = "model"
T0 = 1_760_000_000_000.0


def run(test: Callable[[JobStore, IdleQueueTicker], Awaitable[None]], url: str) -> None:
    async def body() -> None:
        store = JobStore(url, now_ms=T0)
        try:
            await store.put_queue(Q, QueueSettings())
            await test(store, IdleQueueTicker(store))
        finally:
            await store.aclose()

    asyncio.run(body())


async def submit(store: JobStore, *, ttl_ms: int = 600_000, delay_ms: int = 0) -> None:
    new = NewJob(
        id="j1",
        endpoint="/v1/completions",
        body=b"{}",
        job_class="interactive",
        slack_ms=0.0,
        offset_ms=0.0,
        predicted_tokens=10.0,
        predicted_ms=10.0,
        prediction=None,
        max_attempts=3,
        delay_ms=delay_ms,
        ttl_ms=ttl_ms,
        max_depth=100,
        tenant="default",
    )
    await store.submit(Q, new)


async def beat(store: JobStore) -> None:
    view = WorkerView(id="w", slots=1, running=0, engine="simulated", seen_ms=0)
    await store.beat(Q, worker=view, leases=[])


async def state(store: JobStore) -> JobState:
    job = await store.get(Q, "j1")
    assert job is not None
    return job.state


def test_a_deadline_passes_in_a_queue_that_no_worker_serves(redis_url: str) -> None:
    # A request to a model without a worker never got its 504.
    async def body(store: JobStore, ticker: IdleQueueTicker) -> None:
        await submit(store, ttl_ms=1000)
        store.now_ms = T0 + 1001
        await ticker.check()
        assert await state(store) is JobState.EXPIRED

    run(body, redis_url)


def test_a_delayed_job_enters_the_queue_and_so_wakes_the_first_replica(redis_url: str) -> None:
    # With `minReplicas: 0` no job waited until a worker ticked, so no worker was started.
    async def body(store: JobStore, ticker: IdleQueueTicker) -> None:
        await submit(store, delay_ms=1000)
        store.now_ms = T0 + 1001
        await ticker.check()
        assert (await store.stats(Q)).depth == 1

    run(body, redis_url)


def test_the_last_worker_is_forgotten_like_any_other(redis_url: str) -> None:
    # It was shown for ever, and `explain` returned "it should start in about 0.0 s".
    async def body(store: JobStore, ticker: IdleQueueTicker) -> None:
        await beat(store)
        store.now_ms = T0 + store.settings.worker_ttl_ms + 1
        await ticker.check()
        assert (await store.stats(Q)).workers == []

    run(body, redis_url)


def test_a_queue_with_a_worker_is_not_ticked(redis_url: str) -> None:
    async def body(store: JobStore, ticker: IdleQueueTicker) -> None:
        await submit(store, ttl_ms=1000)
        store.now_ms = T0 + 1001
        await beat(store)
        await ticker.check()
        assert await state(store) is JobState.QUEUED  # until that worker ticks

    run(body, redis_url)


@pytest.mark.slow
def test_a_request_that_no_worker_takes_is_a_504_at_its_deadline(
    make_front: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.1)
    front = make_front()
    front.put_queue(request_ttl_ms=1000)
    answer = front.http.post("/v1/chat/completions", json=front.chat())
    assert answer.status_code == 504


def test_a_queue_that_cannot_be_ticked_holds_up_no_other(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    # One damaged key stopped the ticks of every queue behind it in the alphabet.
    async def body(store: JobStore, ticker: IdleQueueTicker) -> None:
        await store.put_queue("a", QueueSettings())
        await submit(store, ttl_ms=1000)
        async with redis.Redis.from_url(redis_url) as client:
            await client.delete(QueueKeys("a").workers)
            await client.set(QueueKeys("a").workers, "not a sorted set")
        store.now_ms = T0 + 1001
        for _ in range(3):
            await ticker.check()
        assert await state(store) is JobState.EXPIRED

    run(body, redis_url)
    failed = [r for r in caplog.records if r.levelname == "ERROR"]
    assert [r.__dict__["item"] for r in failed] == ["a"]  # once: it is left alone for a while
