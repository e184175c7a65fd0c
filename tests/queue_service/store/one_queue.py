"""One queue of a real store, whose clock is `store.now_ms`: its jobs, its claims, its output."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from lengthwise_contract.jobs import JobError
from lengthwise_contract.queue_views import WorkerView
from lengthwise_contract.states import JobState
from lengthwise_store.jobs import (
    Accepted,
    Claim,
    NewJob,
    Outcome,
    OutcomeKind,
)
from lengthwise_store.store import JobStore

Q = "org/model-1"
T0 = 1_760_000_000_000.0
W = WorkerView(id="w1", slots=4, running=0, engine="test", seen_ms=0)
OK = Outcome(kind=OutcomeKind.OK, output_tokens=10, prompt_tokens=3, service_ms=200)
RETRY = Outcome(kind=OutcomeKind.RETRY, error=JobError(code="x", message="y"))


def job(job_id: str, **changes: Any) -> NewJob:
    fields: dict[str, Any] = {
        "id": job_id,
        "endpoint": "/v1/chat/completions",
        "body": b'{"n": 1}',
        "job_class": "interactive",
        "slack_ms": 0.0,
        "predicted_tokens": 100.0,
        "predicted_ms": 2000.0,
        "prediction": None,
        "max_attempts": 3,
        "delay_ms": 0,
        "ttl_ms": 600_000,
        "max_depth": 1000,
    }
    return NewJob(**(fields | changes))


def run(test: Callable[[JobStore], Awaitable[None]], url: str, now: float | None = T0) -> None:
    async def body() -> None:
        store = JobStore(url, now_ms=now)
        try:
            await test(store)
        finally:
            await store.aclose()

    asyncio.run(body())


async def accept(store: JobStore, job_id: str, **changes: Any) -> Accepted:
    answer = await store.submit(Q, job(job_id, **changes))
    assert isinstance(answer, Accepted)
    return answer


async def claim_one(store: JobStore) -> Claim:
    [claim] = await store.claim(Q, worker_id="w1", count=1)
    return claim


async def state_of(store: JobStore, job_id: str) -> JobState:
    found = await store.get(Q, job_id)
    assert found is not None
    return found.state


async def kinds(store: JobStore, job_id: str) -> list[tuple[str, int]]:
    return [(e.kind.value, e.attempt) for e in await store.read_output(Q, job_id)]
