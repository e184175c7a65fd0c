"""Scripts that travel together, against a real Valkey."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

import pytest
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from lengthwise_store import pipeline
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import Accepted, NewJob
from lengthwise_store.lua_loader import load_all
from lengthwise_store.pipeline import ScriptPipeline
from lengthwise_store.store import JobStore

QUEUE = "q"


@pytest.fixture
def redis_url(quiet_redis_url: str) -> str:
    """A server that no other test uses, because commands and connections are counted."""
    return quiet_redis_url


def new_job(number: int) -> NewJob:
    return NewJob(
        id=f"job-{number:06d}",
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
        max_depth=10_000,
    )


def with_store(redis_url: str, test: Callable[[JobStore], Awaitable[None]]) -> None:
    async def body() -> None:
        store = JobStore(redis_url)
        try:
            async with asyncio.timeout(60):
                await test(store)
        finally:
            await store.aclose()

    asyncio.run(body())


def test_each_of_500_callers_at_once_gets_its_own_answer(redis_url: str) -> None:
    """redis-py 8 opens at most 100 connections; the 101st submit at once was answered 503."""

    async def body(store: JobStore) -> None:
        answers = await asyncio.gather(*(store.submit(QUEUE, new_job(n)) for n in range(500)))
        accepted = [a.id for a in answers if isinstance(a, Accepted)]
        assert accepted == [f"job-{n:06d}" for n in range(500)]
        async with redis.Redis.from_url(redis_url) as client:
            assert len(await client.client_list()) < 10

    with_store(redis_url, body)


def test_submits_of_one_moment_are_one_script_and_each_returns_its_own_job(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await store.submit(QUEUE, new_job(0))  # the script is loaded
        jobs = [new_job(n) for n in range(10)]
        jobs[3] = dataclasses.replace(jobs[3], max_depth=0)
        async with redis.Redis.from_url(redis_url) as client:
            await client.set(f"lw:{{{QUEUE}}}:job:job-000005", "not a record")
            await client.config_resetstat()
            answers = await asyncio.gather(
                *(store.submit(QUEUE, job) for job in jobs),
                store.submit("other", new_job(0)),
                return_exceptions=True,
            )
            stats = await client.info("commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == 2  # one for each queue
        kinds = [type(answer).__name__ for answer in answers]
        assert (
            kinds
            == ["Accepted"] * 3 + ["QueueFull", "Accepted", "ResponseError"] + ["Accepted"] * 5
        )
        assert [a.duplicate for a in answers if isinstance(a, Accepted)] == [True] + [False] * 8
        depths = [(await store.stats(name)).depth for name in (QUEUE, "other")]
        assert depths == [8, 1]

    with_store(redis_url, body)


def test_scripts_that_the_server_lost_are_loaded_again(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await store.submit(QUEUE, new_job(0))
        async with redis.Redis.from_url(redis_url) as client:
            await client.script_flush()
        answers = await asyncio.gather(*(store.submit(QUEUE, new_job(n)) for n in range(1, 50)))
        assert all(isinstance(a, Accepted) for a in answers)

    with_store(redis_url, body)


def test_an_error_is_the_reply_of_the_failed_call_alone(redis_url: str) -> None:
    async def body() -> None:
        client = redis.Redis.from_url(redis_url, protocol=2)
        runner = ScriptPipeline(client, load_all(), timeout_s=5)
        async with client:
            async with redis.Redis.from_url(redis_url) as other:
                for name, script in load_all().items():
                    assert await other.script_load(script.text), name
            bad, good = await asyncio.gather(
                runner.run([("tick", [], [])]),  # no keys, no arguments: the script fails
                runner.run([("emit", ["job", "out", "leases"], ["", "j", "n", 1, 1, 0])]),
            )
            await runner.aclose()
        assert isinstance(bad[0], ResponseError)
        assert good == [b"lost"]

    asyncio.run(body())


def test_a_cancelled_caller_does_not_cancel_the_others(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        tasks = [asyncio.create_task(store.submit(QUEUE, new_job(n))) for n in range(40)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(a, asyncio.CancelledError) for a in answers[::2])
        assert all(isinstance(a, Accepted) for a in answers[1::2])

    with_store(redis_url, body)


def test_a_cut_connection_is_replaced_without_the_callers_noticing(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await asyncio.gather(*(store.submit(QUEUE, new_job(n)) for n in range(100)))
        async with redis.Redis.from_url(redis_url) as client:
            await client.client_kill_filter(_type="normal", skipme=True)
        again = await asyncio.gather(*(store.submit(QUEUE, new_job(n)) for n in range(100)))
        assert all(isinstance(a, Accepted) and a.duplicate for a in again)

    with_store(redis_url, body)


def test_every_caller_gets_the_error_of_a_server_that_is_down() -> None:
    async def body(store: JobStore) -> None:
        answers = await asyncio.gather(
            *(store.submit(QUEUE, new_job(n)) for n in range(40)), return_exceptions=True
        )
        assert [type(a) for a in answers] == [StoreUnavailable] * 40

    with_store("redis://127.0.0.1:1/0", body)


@pytest.mark.parametrize("greets", [False, True], ids=["from the start", "after the greeting"])
def test_a_silent_server_is_an_error_after_the_timeout(greets: bool) -> None:
    async def body() -> None:
        ended = asyncio.Event()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while received := await reader.read(10_000):
                if greets and b"SETINFO" in received:
                    writer.write(b"+OK\r\n" * received.count(b"SETINFO"))
            writer.close()
            await writer.wait_closed()
            ended.set()

        server = await asyncio.start_server(listen, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = redis.Redis.from_url(
            f"redis://127.0.0.1:{port}/0", protocol=2, retry=Retry(NoBackoff(), 0)
        )
        runner = ScriptPipeline(client, load_all(), timeout_s=0.1)
        async with asyncio.timeout(30):
            with pytest.raises((TimeoutError, redis.RedisError)):
                await runner.run([("tick", [], [])])
            await runner.aclose()
            await client.aclose()
            await ended.wait()
        server.close()
        await server.wait_closed()

    asyncio.run(body())


def test_a_call_that_arrives_as_the_last_sender_ends_is_sent(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender counted until a callback after its end: a call that came in between waited for ever.

    Workers did nothing for up to a second, until the next tick sent their calls too.
    """
    monkeypatch.setattr(pipeline, "_IN_FLIGHT", 1)

    async def body(store: JobStore) -> None:
        async with asyncio.timeout(10):
            for number in range(20):
                assert isinstance(await store.submit(QUEUE, new_job(number)), Accepted)

    with_store(redis_url, body)
