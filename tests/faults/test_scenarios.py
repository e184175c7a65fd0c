"""Fault scenarios that no other test has; docs/operate/faults.md is the table of them all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from tests.waiting import eventually_async

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.states import JobState
from lengthwise_lab.chaos.system.proxy import Proxy
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import Accepted, Job, LeaseState
from lengthwise_store.keys import QUEUES, QueueKeys
from lengthwise_store.lua_loader import load_all
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore

if TYPE_CHECKING:
    from tests.faults.conftest import Line, Servers

On = Callable[..., None]

SHORT = StoreSettings(lease_ms=400, tick_ms=50)

#: A worker that dies by itself, exactly where it was told to.
DOOMED = """
    import asyncio, os, signal, sys
    from lengthwise_store.jobs import Outcome, OutcomeKind
    from lengthwise_store.store import JobStore
    from lengthwise_store.settings import StoreSettings

    def die_at(place):
        if place == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)

    async def work():
        store, q = JobStore(sys.argv[1], StoreSettings(lease_ms=400)), "org/model-1"
        die_at("idle")
        [claim] = await store.claim(q, worker_id="doomed", count=1)
        die_at("claimed")
        await store.emit(q, claim.lease, [b"half"])
        die_at("mid-stream")
        ok = Outcome(kind=OutcomeKind.OK, output_tokens=1)
        await store.finish(q, claim.lease, ok, worker_id="doomed")
        die_at("finished")

    asyncio.run(work())
"""


@pytest.mark.parametrize(
    ("place", "attempts"),
    [
        pytest.param("idle", 1, id="idle"),
        pytest.param("claimed", 2, id="just after the claim"),
        pytest.param("mid-stream", 2, id="in mid-stream"),
        pytest.param("finished", 1, id="just after the finish was sent"),
    ],
)
def test_a_worker_killed_at_any_point_loses_no_job_and_repeats_only_what_had_not_ended(
    servers: Servers, on: On, place: str, attempts: int
) -> None:
    server = servers.start()

    async def body(line: Line) -> None:
        job = await line.submit()
        before = await line.store.get(line.queue, job)
        doomed = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", textwrap.dedent(DOOMED), server.url, place],
            check=False,
        )
        assert doomed.returncode == -signal.SIGKILL

        async def finished() -> Job | None:
            await line.store.tick(line.queue)
            await line.serve()
            found = await line.store.get(line.queue, job)
            return found if found is not None and found.finished_ms else None

        found = await eventually_async(finished, "the job is finished", every_s=0.02)
        assert before is not None
        assert (found.state, found.attempt) == (JobState.SUCCEEDED, attempts)
        assert found.due_ms == before.due_ms

    on(server.url, body, SHORT)


# ------------------------------------------------------------------------------- lost replies


def test_lost_replies_to_submit_claim_emit_and_finish_are_made_good(
    servers: Servers, on: On
) -> None:
    server = servers.start()

    async def body(line: Line) -> None:
        thief = Proxy(server.port)
        await thief.start()
        store, q = JobStore(f"redis://127.0.0.1:{thief.port}/0", SHORT), line.queue
        await store.queues()
        for script in load_all().values():  # that they are loaded again is another's test
            server.ask("SCRIPT", "LOAD", script.text)

        async def robbed(work: Callable[[], Any]) -> Any:
            thief.drop_left = 1
            answer = await work()
            assert thief.drop_left == 0
            return answer

        job = line.new(idempotency_key="k")
        await store.submit(q, line.new(id=job.id, idempotency_key="k"))
        again = await robbed(lambda: store.submit(q, job))
        assert (again.id, again.duplicate) == (job.id, True)
        assert (await store.stats(q)).depth == 1
        # The first claim's reply is lost: its lease runs out, and the job is there again.
        assert await robbed(lambda: store.claim(q, worker_id="w", count=1)) == []
        claims: list[Any] = []
        async with asyncio.timeout(10):
            while not claims:
                await store.tick(q)
                claims = await store.claim(q, worker_id="w", count=1)
        [claim] = claims
        assert claim.lease.attempt == 2
        assert await robbed(lambda: store.emit(q, claim.lease, [b"once"])) is LeaseState.HELD
        ended = await robbed(lambda: store.finish(q, claim.lease, line.ok, worker_id="w"))
        assert ended.state is JobState.SUCCEEDED
        texts = [e.data for e in await store.read_output(q, job.id) if e.data == b"once"]
        assert texts == [b"once"]
        assert (await store.stats(q)).counters["succeeded"] == 1
        await store.aclose()
        await thief.aclose()

    on(server.url, body, SHORT)


# ------------------------------------------------------------------------------- the broker


def test_a_broker_killed_and_restarted_has_every_acknowledged_job_and_running_ones_go_on(
    servers: Servers, on: On
) -> None:
    server = servers.start(appendonly="yes", appendfsync="everysec")

    async def body(line: Line) -> None:
        running = await line.submit()
        [claim] = await line.store.claim(line.queue, worker_id="w", count=1)
        ids = [await line.submit() for _ in range(100)]
        waiting = asyncio.create_task(line.store.wait_for_work("other", 20))
        server.kill()
        with pytest.raises(StoreUnavailable):
            await line.submit()
        server.start()
        began = time.monotonic()
        assert await line.comes_back(lambda: line.store.get(line.queue, running))
        ended = await line.store.finish(line.queue, claim.lease, line.ok, worker_id="w")
        assert ended.state is JobState.SUCCEEDED
        served = await line.serve(200)
        assert sorted(served) == sorted(ids)
        assert time.monotonic() - began < 20
        with contextlib.suppress(StoreUnavailable):
            await waiting

    on(server.url, body)


def test_a_primary_without_its_replica_stops_and_what_was_claimed_there_is_accepted_once(
    servers: Servers, on: On
) -> None:
    primary, replica = servers.pair(min_replicas_to_write=1, min_replicas_max_lag=1)
    replica.ask("CONFIG", "SET", "min-replicas-to-write", 0)  # it will have none of its own

    async def body(line: Line) -> None:
        # The replica is heard of once a second: on a busy machine a little later, now and then.
        job = await line.comes_back(line.submit)
        [claim] = await line.comes_back(
            lambda: line.store.claim(line.queue, worker_id="cut off", count=1)
        )
        primary.ask("WAIT", 1, 1000)
        # The partition: the replica is promoted by those on its side.
        replica.ask("REPLICAOF", "NO", "ONE")
        other = JobStore(replica.url, SHORT)

        async def submit_on() -> None:
            while True:
                await line.submit()
                await asyncio.sleep(0.1)  # a client that submits ten times a second

        with pytest.raises(StoreUnavailable, match="has not enough replicas"):
            await asyncio.wait_for(submit_on(), 20)
        with pytest.raises(StoreUnavailable):
            await line.store.finish(line.queue, claim.lease, line.ok, worker_id="cut off")
        claims: list[Any] = []
        async with asyncio.timeout(20):
            while not claims:
                await other.tick(line.queue)
                claims = await other.claim(line.queue, worker_id="there", count=1)
        ended = await other.finish(line.queue, claims[0].lease, line.ok, worker_id="there")
        assert ended.state is JobState.SUCCEEDED
        # The partition heals: the first worker reports to the new primary, and is too late.
        late = await other.finish(line.queue, claim.lease, line.failure, worker_id="cut off")
        assert late.state is None
        found = await other.get(line.queue, job)
        assert found is not None
        assert found.state is JobState.SUCCEEDED
        await other.aclose()

    on(primary.url, body, SHORT)


def test_every_connection_killed_again_and_again_is_replaced_blocking_ones_too(
    servers: Servers, on: On
) -> None:
    server = servers.start()

    async def body(line: Line) -> None:
        store, q = line.store, line.queue
        done = asyncio.Event()

        async def killer() -> None:
            while not done.is_set():
                for kind in ("normal", "pubsub"):
                    await asyncio.to_thread(server.ask, "CLIENT", "KILL", "TYPE", kind)
                await asyncio.sleep(0.03)  # the time between two cuts

        async def waits_for_work() -> None:
            while not done.is_set():
                await line.comes_back(lambda: store.wait_for_work(q, 0.2))

        async def hears() -> None:
            while not done.is_set():
                await line.comes_back(lambda: store.cancellations(q, 0.2))

        others = [asyncio.create_task(work()) for work in (killer, waits_for_work, hears)]
        ids = [await line.comes_back(line.submit) for _ in range(40)]
        reading = asyncio.create_task(store.wait_output(q, ids[-1], timeout_s=30))
        served: set[str] = set()
        async with asyncio.timeout(30):
            while (await line.comes_back(lambda: store.stats(q))).counters.get("succeeded", 0) < 40:
                await line.comes_back(lambda: store.tick(q))
                with contextlib.suppress(AssertionError):  # a claim whose reply was lost
                    served |= set(await line.comes_back(lambda: line.serve(5)))
        done.set()
        await asyncio.gather(*others)
        assert await reading
        assert await store.wait_for_work(q, 0.2) is False

    on(server.url, body, SHORT)


def test_a_full_redis_accepts_nothing_and_serves_what_it_has_until_there_is_room(
    servers: Servers, on: On
) -> None:
    server = servers.start()

    async def body(line: Line) -> None:
        store, q = line.store, line.queue
        ids = [await line.submit(body=b"x" * 50_000) for _ in range(40)]
        [held] = await store.claim(q, worker_id="w", count=1)
        used = server.ask("INFO", "memory")["used_memory"]
        server.ask("CONFIG", "SET", "maxmemory", used - 500_000)
        with pytest.raises(StoreUnavailable, match="is full"):
            await line.submit()
        with pytest.raises(StoreUnavailable, match="is full"):
            await store.emit(q, held.lease, [b"more"])
        assert (await store.beat(q, worker=line.view, leases=[held.lease]))[ids[0]] is (
            LeaseState.HELD
        )
        await store.tick(q)
        assert await store.cancel(q, ids[-1]) is JobState.CANCELLED
        ended = await store.finish(q, held.lease, line.ok, worker_id="w")
        assert ended.state is JobState.SUCCEEDED
        for claim in await store.claim(q, worker_id="w", count=30):
            await store.finish(q, claim.lease, line.ok, worker_id="w")
        assert await line.submit()  # their bodies are gone: there is room again

    on(server.url, body)


# ------------------------------------------------------------------------------- clocks


@pytest.fixture(params=[-3600.0, 3600.0], ids=["an hour behind", "an hour ahead"])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every clock of this process but the monotonic one is wrong."""
    seconds, nanos = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: seconds() + request.param)
    monkeypatch.setattr(time, "time_ns", lambda: nanos() + int(request.param * 1e9))


@pytest.mark.usefixtures("wrong_clock")
def test_a_wrong_clock_of_a_front_end_or_worker_has_no_effect(servers: Servers, on: On) -> None:
    server = servers.start()

    async def body(line: Line) -> None:
        job = await line.submit(slack_ms=1000.0, ttl_ms=60_000)
        now_ms = float(server.ask("TIME")[0]) * 1000
        found = await line.store.get(line.queue, job)
        assert found is not None
        assert abs(found.accepted_ms - now_ms) < 30_000
        assert found.due_ms == pytest.approx(found.accepted_ms + 1000)
        [claim] = await line.store.claim(line.queue, worker_id="w", count=1)
        await line.store.tick(line.queue)
        states = await line.store.beat(line.queue, worker=line.view, leases=[claim.lease])
        assert states == {job: LeaseState.HELD}

    on(server.url, body)


@pytest.mark.parametrize("jump_ms", [60_000.0, -60_000.0], ids=["forward", "back"])
def test_a_jump_of_redis_clock_moves_leases_by_the_jump_and_loses_nothing(
    servers: Servers, on: On, jump_ms: float
) -> None:
    server = servers.start()

    async def body(line: Line) -> None:
        store, q = line.store, line.queue
        t0 = store.now_ms = 1_760_000_000_000.0
        first = await line.submit(slack_ms=500.0)
        [claim] = await store.claim(q, worker_id="w", count=1)
        store.now_ms = t0 + jump_ms
        second = await line.submit(slack_ms=500.0)
        report = await store.tick(q)
        assert report is not None
        # Forward: the lease ends at once. Back: it stands for the jump longer, and a beat cures it.
        assert report.returned == (1 if jump_ms > 0 else 0)
        states = await store.beat(q, worker=line.view, leases=[claim.lease])
        assert states[first] is (LeaseState.LOST if jump_ms > 0 else LeaseState.HELD)
        store.now_ms = t0 + jump_ms + store.settings.lease_ms + 1
        await store.tick(q)
        claims = await store.claim(q, worker_id="w", count=5)
        assert sorted(c.lease.job_id for c in claims) == [first, second]

    on(server.url, body)


# ------------------------------------------------------------------------------- the rest


def test_two_workers_with_one_id_do_not_disturb_each_other(servers: Servers, on: On) -> None:
    server = servers.start()

    async def body(line: Line) -> None:
        store, q = line.store, line.queue
        clone = JobStore(server.url)
        ids = [await line.submit(), await line.submit()]
        [mine] = await store.claim(q, worker_id="w", count=1)
        [clones] = await clone.claim(q, worker_id="w", count=1)
        assert mine.lease.nonce != clones.lease.nonce
        await clone.beat(q, worker=line.view, leases=[clones.lease])
        await store.beat(q, worker=line.view, leases=[mine.lease])
        for one, lease in ((store, mine.lease), (clone, clones.lease)):
            ended = await one.finish(q, lease, line.ok, worker_id="w")
            assert ended.state is JobState.SUCCEEDED
        assert sorted([mine.lease.job_id, clones.lease.job_id]) == ids
        await clone.aclose()

    on(server.url, body)


def test_what_a_newer_release_wrote_beside_is_passed_over(servers: Servers, on: On) -> None:
    server = servers.start()

    async def body(line: Line) -> None:
        k = QueueKeys(line.queue)
        newer = QueueSettings().model_dump() | {"a_field_of_tomorrow": [1, 2]}
        server.ask("HSET", QUEUES, line.queue, json.dumps(newer))
        job = await line.submit()
        server.ask("HSET", k.job(job), "a_field_of_tomorrow", "x")
        server.ask("HSET", k.meta, "a_counter_of_tomorrow", 7)
        assert await line.store.queue(line.queue) is not None
        assert await line.store.stats(line.queue) is not None
        assert await line.store.get(line.queue, job) is not None
        assert await line.serve() == [job]

    on(server.url, body)


def test_a_caller_cancelled_at_any_moment_leaves_no_reply_to_somebody_else(
    servers: Servers, on: On
) -> None:
    server = servers.start()

    async def body(line: Line) -> None:
        store, q = line.store, line.queue
        ids = [await line.submit(body=str(n).encode()) for n in range(20)]
        for turns in range(12):
            asks = [
                store.get(q, ids[turns % 20]),
                store.stats(q),
                store.queue(q),
                store.read_output(q, ids[0]),
                store.wait_for_work("other", 1),
                store.wait_output(q, ids[1], timeout_s=1),
                store.cancellations(q, 1),
            ]
            for ask in asks:
                task = asyncio.ensure_future(ask)
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                # A reply that was left behind would be given to the next who asks.
                jobs = await asyncio.gather(*(store.get(q, one) for one in ids))
                assert [job.id for job in jobs if job is not None] == ids
        again = await store.submit(q, line.new())
        assert isinstance(again, Accepted)

    on(server.url, body)
