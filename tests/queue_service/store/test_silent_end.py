"""The END of a job without output: no stream has it, and every reader gets it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio as redis

from lengthwise_contract.jobs import JobError
from lengthwise_store.codec.output import END_FIELDS, read_silent_end
from lengthwise_store.jobs import (
    Accepted,
    Claim,
    EntryKind,
    NewJob,
    Outcome,
    OutcomeKind,
    OutputEntry,
)
from lengthwise_store.keys import QueueKeys
from lengthwise_store.store import JobStore

Q = "org/model-1"
K = QueueKeys(Q)
T0 = 1_760_000_000_000.0
OK = Outcome(kind=OutcomeKind.OK, output_tokens=10, prompt_tokens=3, service_ms=200)
ERROR = Outcome(kind=OutcomeKind.ERROR, error=JobError(code="x", message="y"))

#: Longest time of anything here, s; an immediate reply takes milliseconds.
PATIENCE_S = 20.0


def run(test: Callable[[JobStore], Awaitable[None]], url: str) -> None:
    async def body() -> None:
        store = JobStore(url, now_ms=T0)
        try:
            async with asyncio.timeout(2 * PATIENCE_S):
                await test(store)
        finally:
            await store.aclose()

    asyncio.run(body())


async def accept(store: JobStore, job_id: str = "j1") -> None:
    job = NewJob(
        id=job_id,
        endpoint="/v1/chat/completions",
        body=b"{}",
        job_class="interactive",
        slack_ms=0.0,
        predicted_tokens=100.0,
        predicted_ms=2000.0,
        prediction=None,
        max_attempts=3,
        delay_ms=0,
        ttl_ms=600_000,
        max_depth=1000,
    )
    assert isinstance(await store.submit(Q, job), Accepted)


async def claim_one(store: JobStore) -> Claim:
    [claim] = await store.claim(Q, worker_id="w1", count=1)
    return claim


async def answer(store: JobStore, outcome: Outcome = OK) -> None:
    claim = await claim_one(store)
    assert (await store.finish(Q, claim.lease, outcome, worker_id="w1")).state is not None


async def fail(store: JobStore) -> None:
    await answer(store, ERROR)


async def cancel(store: JobStore) -> None:
    await store.cancel(Q, "j1")


async def expire(store: JobStore) -> None:
    store.now_ms = T0 + 600_001
    await store.tick(Q)


async def expire_at_claim(store: JobStore) -> None:
    store.now_ms = T0 + 600_001
    assert await store.claim(Q, worker_id="w1", count=1) == []


ENDS = [
    pytest.param(answer, ("succeeded", None, 3, 10), id="answered"),
    pytest.param(fail, ("failed", "x", None, None), id="failed"),
    pytest.param(cancel, ("cancelled", None, None, None), id="cancelled"),
    pytest.param(expire, ("expired", "deadline_passed", None, None), id="expired"),
    pytest.param(expire_at_claim, ("expired", "deadline_passed", None, None), id="at-claim"),
]


def end_of(entries: list[OutputEntry]) -> tuple[str, str | None, int | None, int | None]:
    [end] = entries
    assert end.kind is EntryKind.END
    data = json.loads(end.data)
    error = data["error"]
    return data["state"], error and error["code"], data["prompt_tokens"], data["output_tokens"]


@pytest.mark.parametrize(("end", "want"), ENDS)
def test_a_job_without_output_has_no_stream_and_its_end_is_read_once(
    redis_url: str, end: Callable[[JobStore], Awaitable[None]], want: Any
) -> None:
    async def body(store: JobStore) -> None:
        await accept(store)
        assert await store.read_output(Q, "j1") == []
        await end(store)
        assert await store.client.exists(K.out("j1")) == 0
        entries = await store.read_output(Q, "j1")
        assert end_of(entries) == want
        assert await store.read_output(Q, "j1", after=entries[0].id) == []

    run(body, redis_url)


@pytest.mark.parametrize(("end", "want"), ENDS)
def test_a_waiting_reader_gets_the_end_at_once(
    redis_url: str, end: Callable[[JobStore], Awaitable[None]], want: Any
) -> None:
    async def body(store: JobStore) -> None:
        await accept(store)
        readers = [
            asyncio.create_task(store.wait_output(Q, "j1", timeout_s=2 * PATIENCE_S))
            for _ in range(2)
        ]
        await asyncio.wait(
            readers, timeout=0.2
        )  # it usually waits in Redis by now; earlier works too
        await end(store)
        for reader in readers:
            assert end_of(await asyncio.wait_for(reader, PATIENCE_S)) == want

    run(body, redis_url)


def test_a_reader_that_was_away_when_the_job_ended_does_not_wait(redis_url: str) -> None:
    # Its stream stays in the hub's set during a short absence, so the END must not be lost.
    async def body(store: JobStore) -> None:
        await accept(store)
        await accept(store, "j2")
        assert await store.wait_output(Q, "j1", timeout_s=0.05) == []
        other = asyncio.create_task(store.wait_output(Q, "j2", timeout_s=2 * PATIENCE_S))
        await answer(store)
        await answer(store)
        assert end_of(await asyncio.wait_for(other, PATIENCE_S))[0] == "succeeded"
        late = store.wait_output(Q, "j1", timeout_s=2 * PATIENCE_S)
        assert end_of(await asyncio.wait_for(late, PATIENCE_S))[0] == "succeeded"

    run(body, redis_url)


def test_a_reader_at_another_replica_gets_the_end_afterwards(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store)
        await answer(store)
        other = JobStore(redis_url)
        late = other.wait_output(Q, "j1", timeout_s=2 * PATIENCE_S)
        assert end_of(await asyncio.wait_for(late, PATIENCE_S))[0] == "succeeded"
        await other.aclose()

    run(body, redis_url)


def test_the_end_of_a_second_attempt_follows_its_attempt_entry(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store)
        await answer(store, Outcome(kind=OutcomeKind.RELEASE))
        await answer(store)
        kinds = [entry.kind for entry in await store.read_output(Q, "j1")]
        assert kinds == [EntryKind.ATTEMPT, EntryKind.END]

    run(body, redis_url)


def test_an_end_that_the_release_before_wrote_into_a_stream_is_read_from_there(
    redis_url: str,
) -> None:
    async def body(store: JobStore) -> None:
        await accept(store)
        await answer(store)
        data = b'{"state":"succeeded","error":null,"prompt_tokens":3,"output_tokens":10}'
        entry_id = await store.client.xadd(K.out("j1"), {"k": "end", "a": 1, "d": data})
        [end] = await store.read_output(Q, "j1")
        assert (end.id, end.data) == (entry_id.decode(), data)

    run(body, redis_url)


def test_output_that_is_gone_is_not_mistaken_for_no_output(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store)
        claim = await claim_one(store)
        await store.finish(Q, claim.lease, OK, chunks=[b"x"], worker_id="w1")
        await store.client.delete(K.out("j1"))
        assert await store.read_output(Q, "j1") == []

    run(body, redis_url)


def test_the_stream_of_silent_ends_stays_short(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        for number in range(500):
            await accept(store, f"j{number}")
            await answer(store)
        # 100, and up to one node of the stream more.
        assert 100 <= await store.client.xlen(K.ends) <= 200

    run(body, redis_url)


def test_an_end_that_cannot_be_read_is_skipped() -> None:
    record = dict.fromkeys(END_FIELDS, None) | {"state": b"failed", "error": b"{"}
    assert read_silent_end(list(record.values()), "0-0") == []


def test_a_damaged_record_does_not_break_its_reader(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        raw = redis.Redis.from_url(redis_url)
        await raw.set(K.job("j1"), "not a hash")
        assert await store.read_output(Q, "j1") == []
        await raw.aclose()

    run(body, redis_url)
