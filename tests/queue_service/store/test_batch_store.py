"""Two runners of one batch: only the later one's writes count, and each line's result once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import redis.asyncio as redis
from tests.waiting import eventually_async

from lengthwise_store.batches.batch import (
    START,
    Batch,
    BatchLost,
    BatchStatus,
    LineResult,
    OpenLine,
    Place,
)
from lengthwise_store.batches.store import BatchStore

BATCH = "batch_1"
Test = Callable[[BatchStore], Awaitable[None]]


def run(redis_url: str, test: Test) -> None:
    async def body() -> None:
        async with redis.Redis.from_url(redis_url) as client:
            await test(BatchStore(client, ttl_ms=60_000, lease_ms=1000))

    asyncio.run(body())


async def made(store: BatchStore) -> Batch:
    """A batch that is in progress, held by the nonce `a`."""
    await store.create(
        BATCH,
        tenant="t",
        endpoint="/v1/completions",
        input_file_id="file-1",
        metadata=None,
        window_ms=60_000,
        output_ttl_ms=60_000,
        max_body_bytes=10_000,
    )
    _, batch = await store.acquire(BATCH, "a")
    assert batch is not None
    assert await store.move(batch, "a", BatchStatus.IN_PROGRESS, total=3)
    return await now(store)


async def now(store: BatchStore) -> Batch:
    batch = await store.get("t", BATCH)
    assert batch is not None
    return batch


def result(line: int, file: str = "out") -> LineResult:
    return LineResult(
        line=line,
        file="out" if file == "out" else "err",
        text=b"%d\n" % line,
        input_tokens=1,
        output_tokens=2,
    )


ONE = OpenLine(place=Place(1, 0, 0), custom_id="one")
TWO = OpenLine(place=Place(2, 0, 10), custom_id="two")
BEHIND = Place(3, 0, 20)


def test_a_result_is_written_once_however_often_it_is_reported(redis_url: str) -> None:
    async def test(store: BatchStore) -> None:
        batch = await made(store)
        await store.open(batch, "a", BEHIND, [ONE, TWO])
        await store.open(batch, "a", BEHIND, [ONE, TWO])  # its reply was lost, and it is repeated
        assert await store.open_lines(BATCH) == {1: ONE, 2: TWO}
        assert await store.write_results(batch, "a", [result(1)]) == (2, 0)
        assert await store.write_results(batch, "a", [result(1), result(2, "err")]) == (2, 2)
        ended = await now(store)
        assert (ended.completed, ended.failed) == (1, 1)
        assert (ended.input_tokens, ended.output_tokens) == (2, 4)
        assert (ended.out_blocks, ended.err_blocks) == (1, 1)
        assert await store.open_lines(BATCH) == {}

    run(redis_url, test)


def test_results_of_unopened_lines_are_written_once_with_the_cursor(redis_url: str) -> None:
    async def test(store: BatchStore) -> None:
        batch = await made(store)
        for _ in range(2):  # the second time, the cursor has passed these lines
            assert await store.write_results(batch, "a", [result(1, "err")], to=BEHIND) == (0, 2)
        ended = await now(store)
        assert (ended.failed, ended.cursor) == (1, BEHIND)

    run(redis_url, test)


def test_a_runner_that_lost_the_batch_writes_nothing_more(redis_url: str) -> None:
    async def test(store: BatchStore) -> None:
        batch = await made(store)
        await store.open(batch, "a", BEHIND, [ONE, TWO])
        await store.acquire(BATCH, "b")
        before = await now(store)
        for write in (
            store.open(batch, "a", Place(4, 0, 30), []),
            store.write_results(batch, "a", [result(1)]),
            store.write_results(batch, "a", [result(3)], to=BEHIND),
            store.move(before, "a", BatchStatus.FINALIZING),
            store.beat(BATCH, "a"),
        ):
            with pytest.raises(BatchLost):
                await write
        assert await now(store) == before
        assert await store.write_results(batch, "b", [result(1)]) == (2, 0)

    run(redis_url, test)


@pytest.mark.slow
def test_a_batch_is_taken_by_one_runner_and_again_only_when_its_lease_ends(redis_url: str) -> None:
    async def test(store: BatchStore) -> None:
        await made(store)
        assert await store.take() == BATCH
        assert await store.take() is None
        await eventually_async(store.take, "the lease of the silent runner ends", within_s=10)
        await store.beat(BATCH, "a")
        assert await store.take() is None
        await store.release(BATCH)
        assert await store.take() == BATCH
        await store.end(BATCH)
        await store.release(BATCH)
        assert await store.take() is None

    run(redis_url, test)


def test_a_cancelled_batch_changes_to_no_other_status(redis_url: str) -> None:
    async def test(store: BatchStore) -> None:
        batch = await made(store)
        assert batch.cursor == START
        await store.cancel(BATCH)
        assert not await store.move(batch, "a", BatchStatus.FINALIZING)
        await store.cancel(BATCH)
        assert (await now(store)).status is BatchStatus.CANCELLING

    run(redis_url, test)
