"""The store becomes unreachable and returns, behind a proxy that the test can close."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from lengthwise_contract.states import JobState
from lengthwise_lab.chaos.system.proxy import Proxy
from lengthwise_store.jobs import EntryKind

if TYPE_CHECKING:
    from tests.worker.conftest import Rig


@asynccontextmanager
async def proxied(rig: Rig) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the store, and its URL."""
    proxy = Proxy(urlsplit(rig.redis_url).port or 6379)
    await proxy.start()
    try:
        yield proxy, f"redis://127.0.0.1:{proxy.port}/0"
    finally:
        await proxy.aclose()


@pytest.mark.slow
def test_a_stream_across_an_outage_of_the_store_loses_and_repeats_nothing(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine(tokens_per_s=50.0)
        async with proxied(rig) as (proxy, url), rig.working(engine.url, redis_url=url) as worker:
            await rig.submit("j1", tokens=100)
            await rig.becomes(lambda: engine.batch.running == 1)
            with proxy.closed():
                # The engine completes the answer, and then the store returns.
                await rig.becomes(lambda: worker.link.unavailable)
                await rig.becomes(lambda: engine.batch.seen.answered == 1)
                assert (await rig.job("j1")).state is JobState.RUNNING
            *chunks, _ = await rig.output("j1")
            assert proxy.cut() > 0
            # And the worker claims again.
            await rig.submit("j2", tokens=2)
            await rig.output("j2")
        texts = [json.loads(c.data)["choices"][0]["delta"]["content"] for c in chunks]
        assert texts == [f" w{i}" for i in range(100)]
        assert (await rig.job("j1")).attempt == 1

    rig.run(body)


@pytest.mark.slow
def test_a_worker_that_returns_after_its_lease_ended_learns_that_it_lost_the_job(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine(tokens_per_s=20.0)
        times: dict[str, Any] = {"lease_ms": 2000, "beat_ms": 100, "tick_ms": 100}
        other = rig.open_store(rig.settings(engine.url, **times))

        async def stolen() -> bool:
            await other.tick(rig.queue)
            return bool(await other.claim(rig.queue, worker_id="thief", count=1))

        async with (
            proxied(rig) as (proxy, url),
            rig.working(engine.url, redis_url=url, **times) as worker,
        ):
            await rig.submit("j1", tokens=5000)
            await rig.becomes(lambda: engine.batch.running == 1)
            with proxy.closed():
                await rig.until(stolen)
                assert engine.batch.seen.aborted == 0
            await rig.becomes(lambda: engine.batch.seen.aborted == 1)
            await rig.becomes(lambda: worker.metrics.leases_lost._value.get() == 1)
            await other.aclose()
        entries = await rig.store.read_output(rig.queue, "j1")
        assert [e.kind for e in entries if e.attempt == 2] == [EntryKind.ATTEMPT]

    rig.run(body)
