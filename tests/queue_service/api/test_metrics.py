"""Scrapes: computed once for all who ask, and on a port of their own if one is set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from lengthwise_queue.background.scrapes import Scrapes
from lengthwise_queue.metrics import Metrics
from lengthwise_queue.scheduling.snapshot import QueueCache
from lengthwise_queue.settings import Settings
from lengthwise_queue.tenants.registry import TenantRegistry
from lengthwise_store.store import JobStore

Front = Any  # tests/queue_service/conftest.py


@pytest.mark.parametrize(("age_s", "want"), [(60.0, 1), (0.0, 3)])
def test_a_scrape_is_computed_once_for_all_who_ask(redis_url: str, age_s: float, want: int) -> None:
    # Each of sixteen scrapers had its own: with 20,000 jobs waiting a submit took 726 ms.
    async def body() -> None:
        store, metrics = JobStore(redis_url), Metrics(TenantRegistry(Settings()))
        computed: list[bytes] = []

        def expose(*how: Any) -> bytes:
            computed.append(metrics.expose(*how))
            return computed[-1]

        scrapes = Scrapes(store, QueueCache(store), expose, age_s=age_s)
        for _ in range(3):
            texts = await asyncio.gather(*(scrapes.text() for _ in range(16)))
            assert len(set(texts)) == 1
        assert len(computed) == want
        await store.aclose()

    asyncio.run(body())


def test_a_scrape_that_failed_is_tried_again(redis_url: str) -> None:
    async def body() -> None:
        store, metrics = JobStore(redis_url), Metrics(TenantRegistry(Settings()))
        calls = 0

        def fail_once(*how: Any) -> bytes:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise RuntimeError("a bug")
            return metrics.expose(*how)

        scrapes = Scrapes(store, QueueCache(store), fail_once, age_s=60)
        with pytest.raises(RuntimeError):
            await scrapes.text()
        assert b"lengthwise_store_up 1.0" in await scrapes.text()
        await store.aclose()

    asyncio.run(body())


def test_metrics_have_a_port_of_their_own_if_one_is_set(
    make_front: Callable[..., Front], free_port: Callable[[], int]
) -> None:
    port = free_port()
    front = make_front(metrics_port=port)
    assert front.http.get("/metrics").status_code == 404
    assert front.http.get("//metrics").status_code == 404
    assert front.http.get("/healthz").status_code == 200
    scraped = httpx.get(f"http://127.0.0.1:{port}/metrics")
    assert "lengthwise_store_up 1.0" in scraped.text
    for path in ("/healthz", "/v1/models", "/v1/queues"):
        refused = httpx.get(f"http://127.0.0.1:{port}{path}")
        assert refused.status_code == 404
        assert "/metrics alone" in refused.json()["error"]["message"]
