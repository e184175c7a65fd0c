"""What a reader gets after a failover that lost output, against a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio as redis
from redis.exceptions import ResponseError

from lengthwise_store.jobs import Claim, EntryKind, NewJob, Outcome, OutcomeKind, OutputEntry
from lengthwise_store.keys import QueueKeys
from lengthwise_store.output_reader import stream_output
from lengthwise_store.store import JobStore

Q, JOB = "q", "0a"
OK = Outcome(kind=OutcomeKind.OK, output_tokens=2)
BOUND_S = 30.0


async def submit(store: JobStore) -> None:
    await store.submit(
        Q,
        NewJob(
            id=JOB,
            endpoint="/v1/chat/completions",
            body=b"{}",
            job_class="interactive",
            slack_ms=0.0,
            predicted_tokens=1.0,
            predicted_ms=1.0,
            prediction=None,
            max_attempts=3,
            delay_ms=0,
            ttl_ms=600_000,
            max_depth=10,
        ),
    )


async def claim(store: JobStore) -> Claim:
    [claimed] = await store.claim(Q, worker_id="w", count=1)
    return claimed


class LaggingReplica:
    """A replica that gets no more writes: the keys as they are when it is made."""

    def __init__(self, client: Any, keys: dict[bytes, bytes]) -> None:
        self._client, self._keys = client, keys

    @classmethod
    async def of(cls, client: Any) -> LaggingReplica:
        return cls(client, {key: await client.dump(key) async for key in client.scan_iter()})

    async def become_the_primary(self) -> None:
        """Make the replica the primary."""
        pipe = self._client.pipeline(transaction=True)
        async for key in self._client.scan_iter():
            if b"nudge" not in key:
                pipe.delete(key)
        for key, value in self._keys.items():
            pipe.restore(key, 0, value, replace=True)
        await pipe.execute()


class Reader:
    """Reads a job to its end; `entries` are those so far."""

    def __init__(self, store: JobStore, after: str = "0-0") -> None:
        self.entries: list[OutputEntry] = []
        self._stream = stream_output(store, Q, JOB, after=after, first_s=0.2, beat_s=0.2)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(BOUND_S):
            while len(self.entries) < count:
                self.entries += await anext(self._stream)

    async def to_the_end(self) -> list[tuple[str, bytes]]:
        async with asyncio.timeout(BOUND_S):
            async for batch in self._stream:
                self.entries += batch
        return self.pieces

    @property
    def pieces(self) -> list[tuple[str, bytes]]:
        return [(e.kind.value, e.data) for e in self.entries if e.kind is not EntryKind.END]

    async def leave(self) -> str:
        await self._stream.aclose()
        return self.entries[-1].id


def run(url: str, test: Callable[[JobStore, Any], Awaitable[None]]) -> None:
    async def body() -> None:
        store = JobStore(url)
        try:
            async with redis.Redis.from_url(url) as client:
                await test(store, client)
        finally:
            await store.aclose()

    asyncio.run(body())


@pytest.mark.parametrize("resumes", [False, True], ids=["stays", "comes back"])
@pytest.mark.parametrize("at_the_end", [False, True], ids=["streamed", "with the finish"])
def test_a_reader_of_a_claim_that_redis_lost_gets_an_attempt_and_starts_over(
    redis_url: str, *, resumes: bool, at_the_end: bool
) -> None:
    """A replica without a claim became the primary (durability: replica).

    The next claim counted as the first, no ATTEMPT preceded it, and one client got the pieces of
    two calls of the engine as one answer.
    """

    async def body(store: JobStore, client: Any) -> None:
        await submit(store)
        replica = await LaggingReplica.of(client)
        forgotten = (await claim(store)).lease
        reader = Reader(store)
        await store.emit(Q, forgotten, [b"one "])
        await store.emit(Q, forgotten, [b"two "])
        await reader.until(2)
        if resumes:
            reader = Reader(store, after=await reader.leave())
        await replica.become_the_primary()
        lease = (await claim(store)).lease
        assert lease.attempt == forgotten.attempt
        if not at_the_end:
            await store.emit(Q, lease, [b"eins "])
        rest = [b"eins ", b"zwei"][not at_the_end :]
        await store.finish(Q, lease, OK, chunks=rest, worker_id="w")
        pieces = await reader.to_the_end()
        want = [("attempt", b""), ("chunk", b"eins "), ("chunk", b"zwei")]
        assert pieces == ([] if resumes else [("chunk", b"one "), ("chunk", b"two ")]) + want

    run(redis_url, body)


def test_an_undisturbed_stream_has_nothing_but_its_pieces(redis_url: str) -> None:
    async def body(store: JobStore, _: Any) -> None:
        await submit(store)
        lease = (await claim(store)).lease
        reader = Reader(store)
        await store.emit(Q, lease, [b"1", b"2"])
        await reader.until(2)
        again = Reader(store, after=await reader.leave())
        await store.finish(Q, lease, OK, chunks=[b"3"], worker_id="w")
        assert await again.to_the_end() == [("chunk", b"3")]
        assert await Reader(store).to_the_end() == [("chunk", n) for n in (b"1", b"2", b"3")]

    run(redis_url, body)


def test_a_second_attempt_is_announced_once(redis_url: str) -> None:
    async def body(store: JobStore, _: Any) -> None:
        await submit(store)
        lease = (await claim(store)).lease
        await store.emit(Q, lease, [b"1"])
        await store.finish(Q, lease, Outcome(kind=OutcomeKind.RELEASE), worker_id="w")
        lease = (await claim(store)).lease
        await store.finish(Q, lease, OK, chunks=[b"2"], worker_id="w")
        want = [("chunk", b"1"), ("attempt", b""), ("chunk", b"2")]
        reader = Reader(store)
        assert await reader.to_the_end() == want
        ids = ["0-0", *(entry.id for entry in reader.entries[:-1])]
        for count, after in enumerate(ids):  # at every place where it stops and resumes
            assert await Reader(store, after=after).to_the_end() == want[count:]

    run(redis_url, body)


@pytest.mark.slow
def test_a_damaged_output_ends_its_own_reader_and_no_other(redis_url: str) -> None:
    # All readers of a queue share one XREAD: a key of another type failed it for all, for ever.
    async def body() -> None:
        store = JobStore(redis_url)
        try:
            await submit(store)
            lease = (await claim(store)).lease
            damaged = asyncio.create_task(store.wait_output(Q, "damaged", timeout_s=1000))
            await store.emit(Q, lease, [b"one"])
            [first] = await store.wait_output(Q, JOB, timeout_s=1000)
            async with redis.Redis.from_url(redis_url) as client:
                await client.set(QueueKeys(Q).out("damaged"), "not a stream")
            reader = asyncio.create_task(store.wait_output(Q, JOB, after=first.id, timeout_s=1000))
            async with asyncio.timeout(BOUND_S):
                with pytest.raises(ResponseError):
                    await damaged
                await store.emit(Q, lease, [b"two"])
                assert [entry.data for entry in await reader] == [b"two"]
        finally:
            await store.aclose()

    asyncio.run(body())
