"""Connections of a worker that stay open and bring nothing: to Redis, and to the engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from lengthwise_contract.states import JobState
from lengthwise_lab.chaos.system.proxy import HalfOpen, Proxy
from lengthwise_store.jobs import EntryKind

if TYPE_CHECKING:
    from tests.worker.conftest import Rig

#: Short leases, and an engine that is given up after a second of silence.
TIMES: dict[str, Any] = {
    "lease_ms": 1000,
    "beat_ms": 200,
    "tick_ms": 100,
    "engine_timeout_s": 1.0,
}


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """A proxy before a server."""
    proxy = Proxy(urlsplit(url).port or 6379)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.aclose()


async def text_of(rig: Rig, job_id: str) -> str:
    """The text of the last attempt, when the job has ended."""
    text = ""
    for entry in await rig.output(job_id):
        if entry.kind is EntryKind.ATTEMPT:
            text = ""
        elif entry.kind is EntryKind.CHUNK:
            text += json.loads(entry.data)["choices"][0]["delta"]["content"]
    return text


@pytest.mark.slow
@pytest.mark.parametrize("forwards", [HalfOpen.NOTHING, HalfOpen.REQUESTS])
def test_a_worker_whose_connections_to_redis_are_half_open_serves_jobs_over_new_ones(
    rig: Rig, forwards: HalfOpen
) -> None:
    async def body() -> None:
        engine = rig.engine(tokens_per_s=100.0)
        async with proxied(rig.redis_url) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}/0"
            async with rig.working(engine.url, redis_url=url, **TIMES):
                await rig.submit("j1", tokens=2)
                await rig.output("j1")
                await rig.submit("j2", tokens=100)
                await rig.becomes(lambda: engine.batch.running == 1)
                assert proxy.leave_half_open("", forwards) > 0
                await rig.submit("j3", tokens=2)
                for job_id, tokens in (("j2", 100), ("j3", 2)):
                    want = "".join(f" w{i}" for i in range(tokens))
                    assert await text_of(rig, job_id) == want
                    assert (await rig.job(job_id)).state is JobState.SUCCEEDED

    rig.run(body)


@pytest.mark.slow
def test_calls_of_an_engine_whose_connections_are_half_open_are_repeated_over_new_ones(
    rig: Rig,
) -> None:
    async def body() -> None:
        engine = rig.engine(tokens_per_s=50.0)
        async with proxied(engine.url) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            async with rig.working(url, **TIMES):
                await rig.submit("j1", tokens=100)
                await rig.becomes(lambda: engine.batch.running == 1)
                assert proxy.leave_half_open("") > 0
                assert await text_of(rig, "j1") == "".join(f" w{i}" for i in range(100))

    rig.run(body)
