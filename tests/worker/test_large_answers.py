"""Engines that send more than one call of the store takes; finished answers across an outage."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.scripted_engine import Script, ScriptedEngine, as_json

from lengthwise_contract.states import JobState
from lengthwise_store.jobs import EntryKind
from lengthwise_store.keys import QueueKeys

if TYPE_CHECKING:
    from tests.worker.conftest import Rig

E = b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"y"}}]}\n\n'


def lumps(count: int, each: int) -> Script:
    """One event, then `count` pieces of `each` events, then the end."""
    return Script(pieces=[E, *[E * each] * count, b"data: [DONE]\n\n"])


async def stored(rig: Rig, job_id: str) -> int:
    """The number of pieces that are stored of an answer."""
    await rig.state(job_id, JobState.SUCCEEDED)
    entries: list[Any] = []
    while batch := await rig.store.read_output(
        rig.queue, job_id, after=entries[-1].id if entries else "0-0"
    ):
        entries += batch
    assert entries[-1].kind is EntryKind.END
    return sum(e.kind is EntryKind.CHUNK for e in entries)


@pytest.mark.slow
def test_any_number_of_pieces_that_come_at_once_is_stored(rig: Rig) -> None:
    # One script got all pieces as arguments and unpacked them, and Lua's limit is about 8,000: the
    # worker ended with code 1, "too many results to unpack".
    async def body() -> None:
        async with (
            ScriptedEngine(lumps(400, 50), models=[rig.queue]).listening() as engine,
            rig.working(engine.url, engine="openai"),
        ):
            await rig.submit("j1")
            assert await stored(rig, "j1") == 1 + 400 * 50

    rig.run(body)


@pytest.mark.slow
def test_many_answers_of_many_pieces_at_once_are_stored(rig: Rig) -> None:
    async def body() -> None:
        async with (
            ScriptedEngine(lumps(60, 50), models=[rig.queue]).listening() as engine,
            rig.working(engine.url, engine="openai", slots=16),
        ):
            for number in range(16):
                await rig.submit(f"j{number}")
            for number in range(16):
                assert await stored(rig, f"j{number}") == 1 + 60 * 50

    rig.run(body)


@pytest.mark.slow
def test_large_bodies_that_end_together_are_stored(rig: Rig) -> None:
    async def body() -> None:
        answer = {"choices": [{"index": 0, "message": {"content": "y" * 3_000_000}}]}
        async with (
            ScriptedEngine(as_json(answer), models=[rig.queue]).listening() as engine,
            rig.working(engine.url, engine="openai", slots=12),
        ):
            for number in range(12):
                await rig.submit(f"j{number}", stream=False)
            for number in range(12):
                assert await stored(rig, f"j{number}") == 1

    rig.run(body)


@pytest.mark.slow
def test_the_pieces_of_long_answers_that_were_gathered_in_an_outage_are_stored(
    quiet_redis_url: str, make_rig: type[Rig]
) -> None:
    rig = make_rig(quiet_redis_url)

    async def body() -> None:
        pid = (await rig.store.client.info("server"))["process_id"]
        engine = rig.engine(tokens_per_s=3000.0)
        async with rig.working(engine.url, lease_ms=60_000) as worker:
            for number in range(3):
                await rig.submit(f"j{number}", tokens=8000)
            await rig.becomes(lambda: engine.batch.running == 3)
            os.kill(pid, signal.SIGSTOP)
            try:
                await rig.becomes(lambda: engine.batch.seen.answered == 3)
                await rig.becomes(lambda: worker.link.unavailable)
            finally:
                os.kill(pid, signal.SIGCONT)
            for number in range(3):
                assert await stored(rig, f"j{number}") == 8000
                assert (await rig.job(f"j{number}")).attempt == 1

    try:
        rig.run(body)
    finally:
        rig.close()


@pytest.mark.slow
def test_answers_that_are_finished_in_an_outage_longer_than_their_leases_are_not_run_again(
    quiet_redis_url: str, make_rig: type[Rig]
) -> None:
    # The tick behind an outage ended all leases, before any worker could extend them.
    rig = make_rig(quiet_redis_url)

    async def body() -> None:
        info = await rig.store.client.info("server")
        engine = rig.engine(tokens_per_s=50.0, slots=8)
        times: dict[str, Any] = {"lease_ms": 1500, "beat_ms": 500, "tick_ms": 100}
        async with rig.working(engine.url, slots=8, **times) as worker:
            other = rig.open_store(rig.settings(engine.url, **times))
            for number in range(6):
                await rig.submit(f"j{number}", tokens=30, stream=False)
            await rig.becomes(lambda: engine.batch.running == 6)
            pid = info["process_id"]
            began_s = time.monotonic()
            os.kill(pid, signal.SIGSTOP)
            try:
                await rig.becomes(lambda: engine.batch.seen.answered == 6)
                await rig.becomes(lambda: worker.link.unavailable)
                await rig.becomes(lambda: time.monotonic() > began_s + 4.0)  # over two leases
            finally:
                os.kill(pid, signal.SIGCONT)
            while await other.tick(rig.queue) is None:  # another process ticks first
                pass
            for number in range(6):
                job = await rig.state(f"j{number}", JobState.SUCCEEDED)
                assert (job.attempt, job.spent) == (1, 1)
            await other.aclose()
        assert engine.batch.seen.requests == 6
        counted = await rig.store.client.hget(QueueKeys(rig.queue).meta, "succeeded")
        assert int(counted) == 6  # each was accepted once

    try:
        rig.run(body)
    finally:
        rig.close()
