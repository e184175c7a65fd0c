"""After any sequence of events and damage, the counters of a queue are what its keys say."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
import redis
from tests.queue_service.store.one_queue import T0, W, job

from lengthwise_contract.jobs import JobError
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.states import JobState
from lengthwise_store.jobs import Accepted, Claim, Outcome, OutcomeKind
from lengthwise_store.keys import QueueKeys
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore

Q = "counted"
K = QueueKeys(Q)
TENANTS = ("a", "b", "c")
ENDED = {"succeeded", "failed", "cancelled", "expired"}

#: What another program, or a bug, may do to the keys of a job.
DAMAGE = ("gone", "type", "out", "tenant", "price", "times", "runs", "plan", "body", "state")


class Events:
    """Random events on one queue. Each method is one event; `log` has what was done."""

    def __init__(self, store: JobStore, raw: Any, seed: int, damage: tuple[str, ...]) -> None:
        self.store, self.raw, self.rng = store, raw, random.Random(seed)  # noqa: S311
        self.damage_of = damage
        self.tenant_of: dict[str, str] = {}
        self.held: list[Claim] = []
        self.unknown_cost = False
        self.log: list[Any] = []

    async def submit(self) -> None:
        job_id, tenant = f"{len(self.tenant_of):04}", self.rng.choice(TENANTS)
        new = job(
            job_id,
            tenant=tenant,
            predicted_tokens=float(self.rng.randint(1, 500)),
            slack_ms=float(self.rng.randint(0, 5000)),
            delay_ms=self.rng.choice([0, 0, 400, 3000]),
            ttl_ms=self.rng.choice([500, 60_000]),
            max_attempts=self.rng.randint(1, 2),
            tokens_per_minute=self.rng.choice([None, 10**9]),
        )
        assert isinstance(await self.store.submit(Q, new), Accepted)
        self.tenant_of[job_id] = tenant

    async def claim(self) -> None:
        self.held += await self.store.claim(Q, worker_id="w1", count=self.rng.randint(1, 4))

    async def emit(self) -> None:
        if self.held:
            await self.store.emit(Q, self.rng.choice(self.held).lease, [b"x", b"y"])

    async def finish(self) -> None:
        for claim in self.rng.sample(self.held, min(len(self.held), self.rng.randint(0, 2))):
            kind = self.rng.choice(list(OutcomeKind))
            error = None if kind is OutcomeKind.OK else JobError(code="e", message="m")
            delay = self.rng.choice([0, 700])
            outcome = Outcome(kind=kind, output_tokens=5, service_ms=9, delay_ms=delay, error=error)
            await self.store.finish(Q, claim.lease, outcome, worker_id="w1", chunks=[b"z"])
            self.held.remove(claim)

    async def beat(self) -> None:
        await self.store.beat(Q, worker=W, leases=[claim.lease for claim in self.held])

    async def worker_dies(self) -> None:
        self.held.clear()

    async def cancel(self) -> None:
        if self.tenant_of:
            await self.store.cancel(Q, self.rng.choice(list(self.tenant_of)))

    async def redrive(self) -> None:
        for tenant in TENANTS:
            for one in self.raw.zrange(K.dead(tenant), 0, 0):
                await self.store.redrive(Q, one.decode())

    async def tick(self) -> None:
        self.store.now_ms = (self.store.now_ms or 0) + self.rng.choice([1, 300, 1100])
        await self.store.tick(Q)

    async def damage(self) -> None:
        living = [i for i in self.tenant_of if self.state(i) in {"queued", "scheduled", "running"}]
        if not living or not self.damage_of:
            return
        one, how = self.rng.choice(living), self.rng.choice(self.damage_of)
        self.log.append((one, how))
        self.unknown_cost |= how in {"gone", "type", "price"}
        if how == "gone":
            self.raw.delete(K.job(one))
        elif how == "type":
            self.raw.set(K.job(one), "x")
        elif how == "out":
            self.raw.delete(K.out(one))
            self.raw.set(K.out(one), "x")
        elif how == "body":
            self.raw.delete(K.body(one))
        else:
            self.raw.hdel(K.job(one), how)

    def state(self, job_id: str) -> str | None:
        if self.raw.type(K.job(job_id)) != b"hash":
            return None
        found = self.raw.hget(K.job(job_id), "state")
        return found.decode() if found else None

    # ------------------------------------------------------------------ what must hold

    def members(self, key: str) -> set[str]:
        return {one.decode() for one in self.raw.zrange(key, 0, -1)}

    async def check(self) -> None:
        ready = {tenant: self.members(K.ready(tenant)) for tenant in TENANTS}
        delayed, leases = self.members(K.delayed), self.members(K.leases)
        waiting = set().union(*ready.values())
        assert self.members(K.accepted) == waiting
        assert self.members(K.tenants) == {t for t, ids in ready.items() if ids}
        assert all(self.tenant_of[i] == t for t, ids in ready.items() for i in ids)
        assert waiting.isdisjoint(delayed | leases)
        assert delayed.isdisjoint(leases)
        # A number may lack a job only while the record of that job cannot be read.
        for tenant in TENANTS:
            most = [i for i in delayed if self.tenant_of[i] == tenant]
            least = [i for i in most if self.is_readable(i)]
            counted = int(self.raw.hget(K.scheduled, tenant) or 0)
            assert len(least) <= counted <= len(most), tenant
        stats = await self.store.stats(Q)
        assert (stats.depth, stats.scheduled) == (len(waiting), len(delayed))
        assert stats.in_flight == len(leases)
        if not self.unknown_cost:
            prices = [self.raw.hget(K.job(i), "price") for i in waiting]
            assert stats.backlog_tokens == sum(int(price.split()[0]) for price in prices)
        states = {i: self.state(i) for i in self.tenant_of}
        for one, state in states.items():
            assert (state == "running") <= (one in leases), one
            assert (state == "queued") <= (one in waiting), one
            assert (state == "scheduled") <= (one in delayed), one
            if state in ENDED:
                assert one not in waiting | delayed | leases
                for key in (K.job(one), K.out(one), K.body(one)):
                    # A job without output never had a stream; what is there is of the damage.
                    assert self.raw.pttl(key) != -1 or self.raw.type(key) == b"string", key
                assert self.raw.pttl(K.body(one)) != -1
        dead = {i for tenant in (*TENANTS, "default") for i in self.members(K.dead(tenant))}
        assert dead == {i for i, state in states.items() if state == "failed"}
        assert stats.dead == len(dead)
        count = Counter(stats.counters)
        over = sum(count[state] for state in ENDED) - count["redriven"]
        living = len(waiting) + len(delayed) + len(leases)
        assert count["accepted"] == len(self.tenant_of) == over + living
        assert self.members(K.deadlines) <= waiting | delayed | leases
        assert set(map(bytes.decode, self.raw.hkeys(K.views))) <= waiting | delayed | leases

    def is_readable(self, job_id: str) -> bool:
        key = K.job(job_id)
        return bool(self.raw.type(key) == b"hash" and self.raw.hexists(key, "tenant"))

    async def settle(self) -> None:
        """Let every job end."""
        self.held.clear()
        for _ in range(20):
            self.store.now_ms = (self.store.now_ms or 0) + 20_000
            await self.store.tick(Q)
            for claim in await self.store.claim(Q, worker_id="w1", count=100):
                await self.store.finish(Q, claim.lease, Outcome(kind=OutcomeKind.OK), worker_id="w")
        assert [self.members(key) for key in (K.accepted, K.delayed, K.leases)] == [set()] * 3
        assert self.members(K.deadlines) == set()
        assert self.raw.hgetall(K.scheduled) == {}
        assert self.raw.hgetall(K.views) == {}
        await self.store.claim(Q, worker_id="w1", count=1)
        assert (await self.store.stats(Q)).backlog_tokens == 0
        assert await self.store.remove_queue(Q, force=True) is None
        left = [key for key in self.raw.scan_iter(f"{K.prefix}*") if self.raw.pttl(key) == -1]
        assert left == []


async def run_events(url: str, seed: int, damage: tuple[str, ...]) -> None:
    store = JobStore(url, StoreSettings(lease_ms=1000), now_ms=T0)
    with redis.Redis.from_url(url) as raw:
        events = Events(store, raw, seed, damage)
        names = ["submit"] * 5 + ["claim"] * 3 + ["finish", "tick"] * 2
        names += ["emit", "beat", "worker_dies", "cancel", "redrive", "damage"]
        try:
            await store.put_queue(Q, QueueSettings())
            for _ in range(150):
                name = events.rng.choice(names)
                events.log.append(name)
                await getattr(events, name)()
                await events.check()
            await events.settle()
        except BaseException as exc:
            exc.add_note(f"seed {seed}, damage {damage}, events {events.log[-12:]}")
            raise
        finally:
            await store.aclose()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_counters_are_right_after_any_events(quiet_redis_url: str, seed: int) -> None:
    asyncio.run(run_events(quiet_redis_url, seed, ()))


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_the_counters_are_right_after_damage_of_one_kind(quiet_redis_url: str, damage: str) -> None:
    asyncio.run(run_events(quiet_redis_url, 1, (damage,)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_counters_are_right_after_damage_of_every_kind(quiet_redis_url: str, seed: int) -> None:
    asyncio.run(run_events(quiet_redis_url, seed, DAMAGE))


def test_a_quarantined_scheduled_job_leaves_the_count_of_its_tenant(redis_url: str) -> None:
    # It never did: a tenant with a damaged job had one place less of its share for ever.
    async def body() -> None:
        store = JobStore(redis_url, now_ms=T0)
        with redis.Redis.from_url(redis_url) as raw:
            for n in range(3):
                await store.submit(Q, job(str(n), delay_ms=1000, tenant="t"))
            await store.submit(Q, job("other", delay_ms=9000, tenant="u"))
            raw.hdel(K.job("0"), "price")  # the tenant is known
            raw.delete(K.job("1"))  # nothing is known
            store.now_ms = T0 + 2000
            await store.tick(Q)
            assert raw.hgetall(K.scheduled) == {b"u": b"1"}
            stats = await store.stats(Q)
            assert (stats.scheduled, stats.depth, stats.dead) == (1, 1, 2)
        await store.aclose()

    asyncio.run(body())


def test_a_damaged_record_costs_a_worker_no_other_lease(redis_url: str) -> None:
    async def body() -> None:
        store = JobStore(redis_url, now_ms=T0)
        with redis.Redis.from_url(redis_url) as raw:
            for n in range(4):
                await store.submit(Q, job(str(n), slack_ms=float(n)))
            leases = [c.lease for c in await store.claim(Q, worker_id="w1", count=4)]
            raw.set(K.job("0"), "x")
            raw.hdel(K.job("1"), "runs")
            raw.set(K.out("2"), "x")
            found = await store.beat(Q, worker=W, leases=leases)
            assert found == {"0": "lost", "1": "held", "2": "held", "3": "held"}
            states = [await store.emit(Q, lease, [b"x"]) for lease in leases]
            assert states == ["lost", "lost", "held", "held"]
        await store.aclose()

    asyncio.run(body())


def test_a_damaged_record_stops_no_other_job_and_no_listing(redis_url: str) -> None:
    async def body() -> None:
        store = JobStore(redis_url, now_ms=T0)
        with redis.Redis.from_url(redis_url) as raw:
            for n in range(4):
                await store.submit(Q, job(str(n), slack_ms=float(n), tenant="t"))
            claims = await store.claim(Q, worker_id="w1", count=2)
            raw.hdel(K.job("0"), "runs")
            raw.set(K.out("1"), "x")
            raw.set(K.job("2"), "x")
            ok = Outcome(kind=OutcomeKind.OK, output_tokens=1)
            ends = [
                (await store.finish(Q, claim.lease, ok, worker_id="w1", chunks=[b"x"])).state
                for claim in claims
            ]
            assert ends == [JobState.FAILED, JobState.SUCCEEDED]
            assert await store.get(Q, "2") is None
            assert [j.id for j in (await store.jobs(Q, "t", state=JobState.QUEUED)).jobs] == ["3"]
            assert await store.cancel(Q, "2") is None
            assert [c.lease.job_id for c in await store.claim(Q, worker_id="w1", count=5)] == ["3"]
            assert (await store.stats(Q)).counters["quarantined"] == 2
        await store.aclose()

    asyncio.run(body())
