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
from lengthwise_store.jobs import Accepted, EntryKind, Job, LeaseState
from lengthwise_store.keys import QUEUES, QueueKeys
from lengthwise_store.lua_loader import load_all
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore

if TYPE_CHECKING:
    from tests.faults.conftest import QueueRig, Servers

On = Callable[..., None]

SHORT = StoreSettings(lease_ms=400, tick_ms=50)

#: A worker that kills itself at the place that its argument names.
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


@pytest.mark.slow
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

    async def body(rig: QueueRig) -> None:
        job = await rig.submit()
        before = await rig.store.get(rig.queue, job)
        doomed = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", textwrap.dedent(DOOMED), server.url, place],
            check=False,
        )
        assert doomed.returncode == -signal.SIGKILL

        async def finished() -> Job | None:
            await rig.store.tick(rig.queue)
            await rig.serve()
            found = await rig.store.get(rig.queue, job)
            return found if found is not None and found.finished_ms else None

        found = await eventually_async(finished, "the job is finished", every_s=0.02)
        assert before is not None
        assert (found.state, found.attempt) == (JobState.SUCCEEDED, attempts)
        assert found.due_ms == before.due_ms

    on(server.url, body, SHORT)


# ------------------------------------------------------------------------------- lost replies


def test_lost_replies_to_submit_claim_emit_and_finish_do_no_harm(servers: Servers, on: On) -> None:
    server = servers.start()

    async def body(rig: QueueRig) -> None:
        proxy = Proxy(server.port)
        await proxy.start()
        store, q = JobStore(f"redis://127.0.0.1:{proxy.port}/0", SHORT), rig.queue
        await store.queues()
        for script in load_all().values():  # another test covers that they are loaded again
            server.ask("SCRIPT", "LOAD", script.text)

        async def unanswered(work: Callable[[], Any]) -> Any:
            proxy.drop_left = 1
            answer = await work()
            assert proxy.drop_left == 0
            return answer

        job = rig.new(idempotency_key="k")
        await store.submit(q, rig.new(id=job.id, idempotency_key="k"))
        again = await unanswered(lambda: store.submit(q, job))
        assert (again.id, again.duplicate) == (job.id, True)
        assert (await store.stats(q)).depth == 1
        # The first claim's reply is lost: its lease ends, and the job is queued again.
        assert await unanswered(lambda: store.claim(q, worker_id="w", count=1)) == []
        claims: list[Any] = []
        async with asyncio.timeout(10):
            while not claims:
                await store.tick(q)
                claims = await store.claim(q, worker_id="w", count=1)
        [claim] = claims
        assert claim.lease.attempt == 2
        assert await unanswered(lambda: store.emit(q, claim.lease, [b"once"])) is LeaseState.HELD
        ended = await unanswered(lambda: store.finish(q, claim.lease, rig.ok, worker_id="w"))
        assert ended.state is JobState.SUCCEEDED
        texts = [e.data for e in await store.read_output(q, job.id) if e.data == b"once"]
        assert texts == [b"once"]
        assert (await store.stats(q)).counters["succeeded"] == 1
        await store.aclose()
        await proxy.aclose()

    on(server.url, body, SHORT)


# ------------------------------------------------------------------------------- the broker


@pytest.mark.slow
def test_a_broker_killed_and_restarted_has_every_acknowledged_job_and_running_ones_continue(
    servers: Servers, on: On
) -> None:
    server = servers.start(appendonly="yes", appendfsync="everysec")

    async def body(rig: QueueRig) -> None:
        running = await rig.submit()
        [claim] = await rig.store.claim(rig.queue, worker_id="w", count=1)
        ids = [await rig.submit() for _ in range(100)]
        waiting = asyncio.create_task(rig.store.wait_for_work("other", 20))
        server.kill()
        with pytest.raises(StoreUnavailable):
            await rig.submit()
        server.start()
        began = time.monotonic()
        assert await rig.comes_back(lambda: rig.store.get(rig.queue, running))
        ended = await rig.store.finish(rig.queue, claim.lease, rig.ok, worker_id="w")
        assert ended.state is JobState.SUCCEEDED
        served = await rig.serve(200)
        assert sorted(served) == sorted(ids)
        assert time.monotonic() - began < 20
        with contextlib.suppress(StoreUnavailable):
            await waiting

    on(server.url, body)


@pytest.mark.slow
def test_a_primary_without_its_replica_stops_and_what_was_claimed_there_is_accepted_once(
    servers: Servers, on: On
) -> None:
    primary, replica = servers.pair(min_replicas_to_write=1, min_replicas_max_lag=1)
    replica.ask("CONFIG", "SET", "min-replicas-to-write", 0)  # it will have no replica

    async def body(rig: QueueRig) -> None:
        # The replica reports once a second, on a busy machine sometimes a little later.
        job = await rig.comes_back(rig.submit)
        [claim] = await rig.comes_back(
            lambda: rig.store.claim(rig.queue, worker_id="cut off", count=1)
        )
        primary.ask("WAIT", 1, 1000)
        # The partition: the replica is promoted on its side.
        replica.ask("REPLICAOF", "NO", "ONE")
        other = JobStore(replica.url, SHORT)

        async def submit_on() -> None:
            while True:
                await rig.submit()
                await asyncio.sleep(0.1)  # a client that submits ten times a second

        with pytest.raises(StoreUnavailable, match="has not enough replicas"):
            await asyncio.wait_for(submit_on(), 20)
        with pytest.raises(StoreUnavailable):
            await rig.store.finish(rig.queue, claim.lease, rig.ok, worker_id="cut off")
        claims: list[Any] = []
        async with asyncio.timeout(20):
            while not claims:
                await other.tick(rig.queue)
                claims = await other.claim(rig.queue, worker_id="there", count=1)
        ended = await other.finish(rig.queue, claims[0].lease, rig.ok, worker_id="there")
        assert ended.state is JobState.SUCCEEDED
        # The partition heals: the first worker reports to the new primary, and is too late.
        late = await other.finish(rig.queue, claim.lease, rig.failure, worker_id="cut off")
        assert late.state is None
        found = await other.get(rig.queue, job)
        assert found is not None
        assert found.state is JobState.SUCCEEDED
        await other.aclose()

    on(primary.url, body, SHORT)


@pytest.mark.slow
def test_every_connection_killed_again_and_again_is_replaced_including_blocking_ones(
    servers: Servers, on: On
) -> None:
    server = servers.start()

    async def body(rig: QueueRig) -> None:
        store, q = rig.store, rig.queue
        done = asyncio.Event()

        killed = dict.fromkeys(("normal", "pubsub"), 0)

        async def killer() -> None:
            while not done.is_set():
                for kind in killed:
                    killed[kind] += await asyncio.to_thread(
                        server.ask, "CLIENT", "KILL", "TYPE", kind
                    )
                await asyncio.sleep(0.03)  # the time between two cuts

        async def waits_for_work() -> None:
            while not done.is_set():
                await rig.comes_back(lambda: store.wait_for_work(q, 0.2))

        async def waits_for_hints() -> None:
            while not done.is_set():
                await rig.comes_back(lambda: store.cancellations(q, 0.2))

        others = [asyncio.create_task(work()) for work in (killer, waits_for_work, waits_for_hints)]
        ids = [await rig.comes_back(rig.submit) for _ in range(40)]
        reading = asyncio.create_task(store.wait_output(q, ids[-1], timeout_s=30))
        async with asyncio.timeout(30):
            while (await rig.comes_back(lambda: store.stats(q))).counters.get("succeeded", 0) < 40:
                await rig.comes_back(lambda: store.tick(q))
                with contextlib.suppress(AssertionError):  # a claim whose reply was lost
                    await rig.comes_back(lambda: rig.serve(5))
        done.set()
        await asyncio.gather(*others)
        assert await reading
        assert await store.wait_for_work(q, 0.2) is False
        assert min(killed.values()) > 0
        assert (await store.stats(q)).counters["succeeded"] == len(ids)
        for job in ids:
            ends = [e for e in await store.read_output(q, job) if e.kind is EntryKind.END]
            assert len(ends) == 1

    on(server.url, body, SHORT)


def test_a_full_redis_accepts_nothing_and_serves_what_it_has_until_there_is_room(
    servers: Servers, on: On
) -> None:
    server = servers.start()

    async def body(rig: QueueRig) -> None:
        store, q = rig.store, rig.queue
        ids = [await rig.submit(body=b"x" * 50_000) for _ in range(40)]
        [held] = await store.claim(q, worker_id="w", count=1)
        used = server.ask("INFO", "memory")["used_memory"]
        server.ask("CONFIG", "SET", "maxmemory", used - 500_000)
        with pytest.raises(StoreUnavailable, match="is full"):
            await rig.submit()
        with pytest.raises(StoreUnavailable, match="is full"):
            await store.emit(q, held.lease, [b"more"])
        assert (await store.beat(q, worker=rig.view, leases=[held.lease]))[ids[0]] is (
            LeaseState.HELD
        )
        await store.tick(q)
        assert await store.cancel(q, ids[-1]) is JobState.CANCELLED
        ended = await store.finish(q, held.lease, rig.ok, worker_id="w")
        assert ended.state is JobState.SUCCEEDED
        for claim in await store.claim(q, worker_id="w", count=30):
            ended = await store.finish(q, claim.lease, rig.ok, worker_id="w")
            assert ended.state is JobState.SUCCEEDED
        assert await rig.submit()  # their bodies are deleted, so there is room again

    on(server.url, body)


# ------------------------------------------------------------------------------- clocks


@pytest.fixture(params=[-3600.0, 3600.0], ids=["an hour behind", "an hour ahead"])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every clock of this process wrong, except the monotonic one."""
    seconds, nanos = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: seconds() + request.param)
    monkeypatch.setattr(time, "time_ns", lambda: nanos() + int(request.param * 1e9))


@pytest.mark.usefixtures("wrong_clock")
def test_a_wrong_clock_of_a_queue_service_or_worker_has_no_effect(servers: Servers, on: On) -> None:
    server = servers.start()

    async def body(rig: QueueRig) -> None:
        job = await rig.submit(slack_ms=1000.0, ttl_ms=60_000)
        now_ms = float(server.ask("TIME")[0]) * 1000
        found = await rig.store.get(rig.queue, job)
        assert found is not None
        assert abs(found.accepted_ms - now_ms) < 30_000
        assert found.due_ms == pytest.approx(found.accepted_ms + 1000)
        [claim] = await rig.store.claim(rig.queue, worker_id="w", count=1)
        await rig.store.tick(rig.queue)
        states = await rig.store.beat(rig.queue, worker=rig.view, leases=[claim.lease])
        assert states == {job: LeaseState.HELD}

    on(server.url, body)


@pytest.mark.parametrize("jump_ms", [60_000.0, -60_000.0], ids=["forward", "back"])
def test_a_jump_of_redis_clock_moves_leases_by_the_jump_and_loses_nothing(
    servers: Servers, on: On, jump_ms: float
) -> None:
    server = servers.start()

    async def body(rig: QueueRig) -> None:
        store, q = rig.store, rig.queue
        t0 = store.now_ms = 1_760_000_000_000.0
        first = await rig.submit(slack_ms=500.0)
        [claim] = await store.claim(q, worker_id="w", count=1)
        store.now_ms = t0 + jump_ms
        second = await rig.submit(slack_ms=500.0)
        report = await store.tick(q)
        assert report is not None
        # Forward: the lease ends at once. Back: it lasts longer by the jump, until the next beat.
        assert report.returned == (1 if jump_ms > 0 else 0)
        states = await store.beat(q, worker=rig.view, leases=[claim.lease])
        assert states[first] is (LeaseState.LOST if jump_ms > 0 else LeaseState.HELD)
        store.now_ms = t0 + jump_ms + store.settings.lease_ms + 1
        await store.tick(q)
        claims = await store.claim(q, worker_id="w", count=5)
        assert sorted(c.lease.job_id for c in claims) == [first, second]

    on(server.url, body)


# ------------------------------------------------------------------------------- the rest


def test_two_workers_with_one_id_do_not_disturb_each_other(servers: Servers, on: On) -> None:
    server = servers.start()

    async def body(rig: QueueRig) -> None:
        store, q = rig.store, rig.queue
        clone = JobStore(server.url)
        ids = [await rig.submit(), await rig.submit()]
        [mine] = await store.claim(q, worker_id="w", count=1)
        [clones] = await clone.claim(q, worker_id="w", count=1)
        assert mine.lease.nonce != clones.lease.nonce
        await clone.beat(q, worker=rig.view, leases=[clones.lease])
        await store.beat(q, worker=rig.view, leases=[mine.lease])
        for one, lease in ((store, mine.lease), (clone, clones.lease)):
            ended = await one.finish(q, lease, rig.ok, worker_id="w")
            assert ended.state is JobState.SUCCEEDED
        assert sorted([mine.lease.job_id, clones.lease.job_id]) == ids
        await clone.aclose()

    on(server.url, body)


def test_fields_that_a_newer_release_wrote_are_ignored(servers: Servers, on: On) -> None:
    server = servers.start()

    async def body(rig: QueueRig) -> None:
        k = QueueKeys(rig.queue)
        newer = QueueSettings().model_dump() | {"a_field_of_tomorrow": [1, 2]}
        server.ask("HSET", QUEUES, rig.queue, json.dumps(newer))
        job = await rig.submit()
        server.ask("HSET", k.job(job), "a_field_of_tomorrow", "x")
        server.ask("HSET", k.meta, "a_counter_of_tomorrow", 7, "a_text_of_tomorrow", "1.5 x")
        assert await rig.store.queue(rig.queue) is not None
        assert (await rig.store.stats(rig.queue)).counters["a_counter_of_tomorrow"] == 7
        assert await rig.store.get(rig.queue, job) is not None
        assert await rig.serve() == [job]

    on(server.url, body)


@pytest.mark.slow
def test_a_caller_cancelled_at_any_moment_leaves_no_reply_to_another_caller(
    servers: Servers, on: On
) -> None:
    server = servers.start()

    async def body(rig: QueueRig) -> None:
        store, q = rig.store, rig.queue
        ids = [await rig.submit(body=str(n).encode()) for n in range(20)]
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
                # A reply left unread would go to the next caller.
                jobs = await asyncio.gather(*(store.get(q, one) for one in ids))
                assert [job.id for job in jobs if job is not None] == ids
        again = await store.submit(q, rig.new())
        assert isinstance(again, Accepted)

    on(server.url, body)
