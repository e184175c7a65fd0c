"""Inputs of any size: no script unpacks more than Lua can, and each call is bounded."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
import redis.asyncio
from tests.queue_service.store.one_queue import OK, RETRY, Q, accept, claim_one, job, run

import lengthwise_store
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.states import JobState
from lengthwise_store.batches.batch import BatchStatus, LineResult, OpenLine, Place
from lengthwise_store.batches.store import BatchStore
from lengthwise_store.codec import pieces
from lengthwise_store.jobs import Completion, EntryKind, LeaseState, OutputEntry
from lengthwise_store.store import JobStore

#: More than Lua's `unpack` returns.
MANY = 20_000

SCRIPTS = sorted(Path(lengthwise_store.__file__).parent.rglob("*.lua"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_no_script_unpacks_all_that_it_was_given(script: Path) -> None:
    # finish.lua did, by an include: 8,000 pieces ended the worker, "too many results to unpack".
    text = script.read_text("utf-8")
    assert re.findall(r"unpack\((?:ARGV|KEYS)(?:,\s*\d+)?\)", text) == []


async def chunks(store: JobStore, job_id: str) -> list[bytes]:
    found: list[OutputEntry] = []
    while page := await store.read_output(Q, job_id, after=found[-1].id if found else "0-0"):
        found += page
    return [entry.data for entry in found if entry.kind is EntryKind.CHUNK]


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


@pytest.mark.slow
def test_any_number_of_pieces_is_stored_once_and_in_order(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "a")
        lease = (await claim_one(store)).lease
        assert await store.emit(Q, lease, numbered(MANY)) is LeaseState.HELD
        rest = numbered(MANY, MANY)
        end = await store.finish(Q, lease, OK, chunks=rest, worker_id="w1")
        assert end.state is JobState.SUCCEEDED
        again = await store.finish(Q, lease, OK, chunks=rest, worker_id="w1")
        assert again.state is JobState.SUCCEEDED
        assert await chunks(store, "a") == numbered(2 * MANY)

    run(body, redis_url)


@pytest.mark.slow
def test_many_answers_of_many_pieces_end_together(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        for n in range(40):
            await accept(store, f"{n:02}")
        claims = await store.claim(Q, worker_id="w1", count=40)
        outcomes = [RETRY if n % 5 == 4 else OK for n in range(40)]
        completions = [
            Completion(lease=c.lease, outcome=outcome, chunks=numbered(500 + 60 * n))
            for n, (c, outcome) in enumerate(zip(claims, outcomes, strict=True))
        ]
        states, _ = await store.finish_all(Q, completions, worker_id="w1", claim_next=3)
        want = [JobState.SCHEDULED if n % 5 == 4 else JobState.SUCCEEDED for n in range(40)]
        assert states == want
        for n in (0, 7, 39):
            assert await chunks(store, f"{n:02}") == numbered(500 + 60 * n)

    run(body, redis_url)


@pytest.mark.slow
def test_a_report_repeated_after_half_of_it_arrived_stores_nothing_twice(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "a")
        lease = (await claim_one(store)).lease
        await store.emit(Q, lease, [b"x"])
        # The first parts arrived, and the connection broke before the rest.
        whole, before = numbered(5000), JobStore(redis_url, now_ms=store.now_ms)
        await before.emit(Q, lease, [b"x", *whole[:2000]])
        await before.aclose()
        assert len(await chunks(store, "a")) == 2001
        end = await store.finish(Q, lease, OK, chunks=whole, worker_id="w1")
        assert end.state is JobState.SUCCEEDED
        assert await chunks(store, "a") == [b"x", *whole]

    run(body, redis_url)


def test_a_lost_claim_is_lost_in_the_first_of_many_calls(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await accept(store, "a")
        lease = (await claim_one(store)).lease
        store.now_ms = (store.now_ms or 0) + 60_000
        await store.tick(Q)
        await claim_one(store)
        assert await store.emit(Q, lease, numbered(3000)) is LeaseState.LOST
        end = await store.finish(Q, lease, OK, chunks=numbered(3000), worker_id="w1")
        assert end.state is None
        assert await chunks(store, "a") == []

    run(body, redis_url)


def test_parts_are_bounded_in_number_and_in_bytes() -> None:
    assert pieces.parts([]) == [[]]
    assert [len(part) for part in pieces.parts([b"x"] * 2001)] == [1000, 1000, 1]
    big = b"x" * (pieces.PIECE_BYTES + 1)
    assert [len(part) for part in pieces.parts([b"a", big, b"b", b"c"])] == [1, 1, 2]
    for count in (0, 1, 999, 1000, 1001):
        given = numbered(count)
        assert [piece for part in pieces.parts(given) for piece in part] == given


@pytest.mark.slow
def test_thousands_of_jobs_are_claimed_and_ended_at_once(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await store.put_queue(Q, QueueSettings())
        jobs = [job(f"{n:05}", max_depth=100_000) for n in range(4500)]
        for first in range(0, len(jobs), 500):
            await asyncio.gather(*(store.submit(Q, one) for one in jobs[first : first + 500]))
        claims = await store.claim(Q, worker_id="w1", count=9000)
        assert [c.lease.job_id for c in claims] == [one.id for one in jobs]
        ends = [Completion(lease=claim.lease, outcome=OK, chunks=()) for claim in claims]
        states, more = await store.finish_all(Q, ends, worker_id="w1", claim_next=9000)
        assert set(states) == {JobState.SUCCEEDED}
        assert more == []
        stats = await store.stats(Q)
        assert (stats.depth, stats.in_flight, len(stats.answers)) == (0, 0, 256)

    run(body, redis_url)


@pytest.mark.slow
def test_a_batch_opens_and_ends_any_number_of_lines(redis_url: str) -> None:
    async def body() -> None:
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            store = BatchStore(client, ttl_ms=60_000, lease_ms=1000)
            await store.create(
                "b",
                tenant="t",
                endpoint="/v1/completions",
                input_file_id="f",
                metadata=None,
                window_ms=60_000,
                output_ttl_ms=60_000,
                max_body_bytes=10_000,
            )
            _, batch = await store.acquire("b", "nonce")
            assert batch is not None
            await store.move(batch, "nonce", BatchStatus.IN_PROGRESS)
            _, batch = await store.acquire("b", "nonce")
            assert batch is not None
            places = [Place(n, 0, n) for n in range(9000)]
            lines = [OpenLine(place=place, custom_id="c") for place in places]
            await store.open(batch, "nonce", Place(9000, 0, 9000), lines)
            assert len(await store.open_lines("b")) == 9000
            results = [
                LineResult(line=n, file="out", text=b"{}\n", input_tokens=1, output_tokens=1)
                for n in range(9000)
            ]
            assert await store.write_results(batch, "nonce", results) == (27_000, 0)
            assert await store.open_lines("b") == {}

    asyncio.run(body())
