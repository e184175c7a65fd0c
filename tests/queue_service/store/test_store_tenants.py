"""Fairness between tenants, and the promises about overtaking, against a real Valkey.

Time is `store.now_ms`. The service is a loop here: `slots` jobs at once, a token takes 1 ms.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.states import JobState
from lengthwise_queue.scheduling.policy import overtake_bound_ms
from lengthwise_store.jobs import (
    Accepted,
    Claim,
    Draining,
    NewJob,
    Outcome,
    OutcomeKind,
    RateLimited,
    Submitted,
    TenantFull,
)
from lengthwise_store.queues import Mode
from lengthwise_store.store import JobStore

Q = "model"
T0 = 1_760_000_000_000.0
K = 3.0


def run(test: Callable[[JobStore], Awaitable[None]], url: str) -> None:
    async def body() -> None:
        store = JobStore(url, now_ms=T0)
        try:
            await test(store)
        finally:
            await store.aclose()

    asyncio.run(body())


def job(job_id: str, tenant: str, tokens: float, **changes: Any) -> NewJob:
    fields: dict[str, Any] = {
        "id": job_id,
        "endpoint": "/v1/completions",
        "body": b"{}",
        "job_class": "interactive",
        "slack_ms": K * tokens,
        "offset_ms": 0.0,
        "predicted_tokens": float(tokens),
        "predicted_ms": float(tokens),
        "prediction": None,
        "max_attempts": 3,
        "delay_ms": 0,
        "ttl_ms": 86_400_000,
        "max_depth": 100_000,
        "tenant": tenant,
    }
    return NewJob(**(fields | changes))


async def submit(store: JobStore, *args: Any, **changes: Any) -> Submitted:
    return await store.submit(Q, job(*args, **changes))


@dataclass(frozen=True)
class Arrival:
    at_ms: float
    job: NewJob
    actual_tokens: int


async def serve(store: JobStore, arrivals: Sequence[Arrival], slots: int) -> dict[str, float]:
    """Serve all jobs, and return how long each waited, ms."""
    actual = {a.job.id: a.actual_tokens for a in arrivals}
    coming = sorted(arrivals, key=lambda a: (a.at_ms, a.job.id))
    running: list[tuple[float, str, Claim]] = []
    waited: dict[str, float] = {}
    place = 0
    while len(waited) < len(arrivals) or running:
        events = [coming[place].at_ms] if place < len(coming) else []
        events += [running[0][0]] if running else []
        now = min(events)
        store.now_ms = T0 + now
        while place < len(coming) and coming[place].at_ms <= now:
            assert isinstance(await store.submit(Q, coming[place].job), Accepted)
            place += 1
        while running and running[0][0] <= now:
            _, job_id, claim = heapq.heappop(running)
            done = Outcome(
                kind=OutcomeKind.OK, output_tokens=actual[job_id], service_ms=actual[job_id]
            )
            await store.finish(Q, claim.lease, done, worker_id="w")
        for claim in await store.claim(Q, worker_id="w", count=slots - len(running)):
            job_id = claim.lease.job_id
            assert claim.waited_ms is not None
            waited[job_id] = claim.waited_ms
            heapq.heappush(running, (now + actual[job_id], job_id, claim))
    return waited


def p95(waits: Sequence[float]) -> float:
    return sorted(waits)[int(0.95 * len(waits))]


@pytest.mark.slow
def test_one_tenant_that_dumps_3000_jobs_does_not_double_the_waits_of_the_others(
    redis_url: str,
) -> None:
    # Fault scenario 22. Nine quiet tenants use a bit over half of four slots; then one dumps.
    quiet = [
        Arrival(i * 40.0, job(f"q{i:05}", f"t{i % 9}", 60 + 40 * (i % 3)), 60 + 40 * (i % 3))
        for i in range(1200)
    ]
    dump = [Arrival(4000.0, job(f"x{i:05}", "loud", 100), 100) for i in range(3000)]

    async def body(store: JobStore) -> None:
        alone = await serve(store, quiet, 4)
        await store.client.flushdb()
        together = await serve(store, [*quiet, *dump], 4)
        mine = [together[a.job.id] for a in quiet]
        # Alone, a tenant does not wait at this load, so the unit is the time of one answer.
        assert p95(mine) <= 2 * max(p95(list(alone.values())), 100)
        assert sum(together[a.job.id] for a in dump) / 3000 > 100 * p95(mine)

    run(body, redis_url)


def test_two_busy_tenants_get_tokens_by_their_weights_even_if_one_declares_less(
    redis_url: str,
) -> None:
    # "b" has twice the weight; "a" declares 10 tokens and takes 100.
    async def body(store: JobStore) -> None:
        for i in range(400):
            await submit(store, f"a{i:04}", "a", 10)
            await submit(store, f"b{i:04}", "b", 100, tenant_weight=2.0)
        tokens = {"a": 0, "b": 0}
        for _ in range(300):
            [claim] = await store.claim(Q, worker_id="w", count=1)
            tokens[claim.tenant] += 100
            done = Outcome(kind=OutcomeKind.OK, output_tokens=100, service_ms=100)
            await store.finish(Q, claim.lease, done, worker_id="w")
        assert tokens["b"] / tokens["a"] == pytest.approx(2.0, rel=0.02)

    run(body, redis_url)


def test_a_tenant_that_was_idle_has_no_credit_from_before(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        for i in range(50):
            await submit(store, f"a{i:04}", "a", 100)
            await submit(store, f"b{i:04}", "b", 100)
        for _ in range(60):
            [claim] = await store.claim(Q, worker_id="w", count=1)
            done = Outcome(kind=OutcomeKind.OK, output_tokens=100, service_ms=100)
            await store.finish(Q, claim.lease, done, worker_id="w")
        for i in range(50):
            await submit(store, f"c{i:04}", "c", 100)
        order = [c.tenant for c in await store.claim(Q, worker_id="w", count=30)]
        assert {tenant: order.count(tenant) for tenant in "abc"} == {"a": 10, "b": 10, "c": 10}

    run(body, redis_url)


@pytest.mark.slow
def test_a_long_job_among_endless_short_ones_starts_within_the_bound(redis_url: str) -> None:
    # Fault scenario 23: the short ones alone would fill the slot for ever.
    long = Arrival(1000.0, job("long0", "a", 4096), 4096)
    short = [Arrival(i * 10.0, job(f"s{i:05}", "a", 10), 10) for i in range(3000)]

    async def body(store: JobStore) -> None:
        waited = await serve(store, [long, *short], 1)
        # A job accepted k x 4096 ms (+ its own slack) later cannot pass it; the jobs before that
        # take 10 ms each, and arrived at that pace.
        assert waited["long0"] <= K * 4096 + 2 * 10

    run(body, redis_url)


@pytest.mark.slow
@pytest.mark.parametrize("follows", [False, True], ids=["k alone", "following the wait"])
def test_no_job_is_overtaken_by_one_accepted_later_than_its_own_bound(
    redis_url: str, follows: bool
) -> None:
    # One slot at 70 ms a job, whose jobs take 220 ms: an overload, so the queue grows.
    lengths = [5, 300, 20, 1000, 7, 60, 150]
    behind_ms = [150.0 * i if follows else 0.0 for i in range(700)]
    bounds = [overtake_bound_ms(lengths[i % 7], K, 220, 2 * behind_ms[i]) for i in range(700)]
    arrivals = [
        Arrival(
            i * 70.0,
            job(f"j{i:05}", "a", lengths[i % 7], slack_ms=bounds[i]),
            lengths[i % 7],
        )
        for i in range(700)
    ]

    async def body(store: JobStore) -> None:
        waited = await serve(store, arrivals, 1)
        start = {a.job.id: a.at_ms + waited[a.job.id] for a in arrivals}
        beyond_k = overtakes = 0
        for one in arrivals:
            for other in arrivals:
                late = other.at_ms - one.at_ms
                if late > 0 and start[other.job.id] < start[one.job.id]:
                    overtakes += 1
                    assert late <= one.job.slack_ms
                    beyond_k += late > K * one.job.predicted_tokens
        assert overtakes > 1000
        assert (beyond_k > 1000) == follows
        assert (await store.stats(Q)).counters["overtakes"] > 0

    run(body, redis_url)


def test_shares_and_rates_refuse_one_tenant_and_not_the_other(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        for i in range(2):
            await submit(store, f"a{i}", "a", 10, tenant_max_depth=3)
        await submit(store, "a2", "a", 10, tenant_max_depth=3, delay_ms=500)
        assert await submit(store, "a3", "a", 10, tenant_max_depth=3) == TenantFull(depth=3)
        assert isinstance(await submit(store, "b0", "b", 10, tenant_max_depth=3), Accepted)
        for i in range(2):
            assert isinstance(
                await submit(store, f"c{i}", "c", 10, requests_per_minute=2), Accepted
            )
        refused = await submit(store, "c2", "c", 10, requests_per_minute=2)
        assert refused == RateLimited(what="requests", retry_after_ms=30_000)
        store.now_ms = T0 + 30_000
        assert isinstance(await submit(store, "c2", "c", 10, requests_per_minute=2), Accepted)

    run(body, redis_url)


def test_a_token_rate_is_charged_by_the_prediction_and_corrected_by_the_answer(
    redis_url: str,
) -> None:
    async def body(store: JobStore) -> None:
        limit: dict[str, Any] = {"tokens_per_minute": 600}
        assert isinstance(await submit(store, "a0", "a", 500, **limit), Accepted)
        refused = await submit(store, "a1", "a", 200, **limit)
        assert refused == RateLimited(what="tokens", retry_after_ms=10_000)
        [claim] = await store.claim(Q, worker_id="w", count=1)
        done = Outcome(kind=OutcomeKind.OK, output_tokens=50, service_ms=100)
        await store.finish(Q, claim.lease, done, worker_id="w")
        assert isinstance(await submit(store, "a1", "a", 200, **limit), Accepted)
        # It costs more than the whole bucket: it passes when the bucket is full, and leaves a debt.
        assert isinstance(await submit(store, "b0", "b", 5000, **limit), Accepted)
        debt = await submit(store, "b1", "b", 100, **limit)
        assert debt == RateLimited(what="tokens", retry_after_ms=450_000)

    run(body, redis_url)


def test_an_idempotency_key_belongs_to_its_tenant(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        mine: dict[str, Any] = {"idempotency_key": "k", "fingerprint": "f"}
        await submit(store, "a0", "a", 10, **mine)
        other = await submit(store, "b0", "b", 10, **mine)
        assert isinstance(other, Accepted)
        assert (other.id, other.duplicate) == ("b0", False)

    run(body, redis_url)


def test_a_paused_queue_gives_no_job_even_to_a_waiting_worker_and_all_jobs_later(
    redis_url: str,
) -> None:
    async def body(store: JobStore) -> None:
        await submit(store, "a0", "a", 10)
        await store.set_mode(Q, Mode.PAUSED)
        assert isinstance(await submit(store, "a1", "a", 10), Accepted)
        assert await store.claim(Q, worker_id="w", count=5) == []
        await store.tick(Q)
        assert not await store.wait_for_work(Q, 0.05)
        await store.set_mode(Q, Mode.OPEN)
        assert await store.wait_for_work(Q, 5)
        assert len(await store.claim(Q, worker_id="w", count=5)) == 2

    run(body, redis_url)


def test_a_draining_queue_accepts_no_job_and_serves_those_it_has(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await submit(store, "a0", "a", 10, idempotency_key="k", fingerprint="f")
        await store.set_mode(Q, Mode.DRAINING)
        assert await submit(store, "a1", "a", 10) == Draining()
        again = await submit(store, "a2", "a", 10, idempotency_key="k", fingerprint="f")
        assert isinstance(again, Accepted)  # it is in the queue already, which is the reply
        assert again.duplicate
        assert len(await store.claim(Q, worker_id="w", count=5)) == 1

    run(body, redis_url)


@pytest.mark.slow
def test_switching_the_policy_and_back_loses_neither_order(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        lengths = [(i * 7919) % 1300 + 1 for i in range(1300)]  # more than two steps of reorder
        for i, tokens in enumerate(lengths):
            store.now_ms = T0 + i
            await submit(store, f"a{i:04}", "a", tokens)

        async def order() -> list[str]:
            return [j.id for j in (await store.snapshot(Q, 5000)).waiting]

        by_length, by_time = await order(), [f"a{i:04}" for i in range(1300)]
        assert by_length != by_time
        for policy, want in (
            ("fcfs", by_time),
            ("shadow", by_time),
            ("sjf", by_length),
            ("fcfs", by_time),
        ):
            await store.put_queue(Q, QueueSettings.model_validate({"policy": policy}))
            assert await order() == want
        await submit(store, "zz", "a", 1)
        assert (await order())[-1] == "zz"
        await store.put_queue(Q, QueueSettings())
        await store.set_fallback(Q, on=True)
        assert (await store.stats(Q)).active_policy == "fcfs"
        assert (await order())[:1300] == by_time
        await store.set_fallback(Q, on=False)
        assert [i for i in await order() if i != "zz"] == by_length

    run(body, redis_url)


def test_a_reorder_whose_caller_died_is_finished_by_the_ticks(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        for i in range(700):
            store.now_ms = T0 + i
            await submit(store, f"a{i:04}", "a", 700 - i)
        call = store._call
        await store._run(call(_keys(), "govern", (), ["", "fcfs", ""]))
        assert [j.id for j in (await store.snapshot(Q, 1)).waiting] != ["a0000"]
        for _ in range(2):
            await store.tick(Q)
        waiting = (await store.snapshot(Q, 1000)).waiting
        assert [j.id for j in waiting] == [f"a{i:04}" for i in range(700)]

    run(body, redis_url)


def _keys() -> Any:
    from lengthwise_store.keys import QueueKeys

    return QueueKeys(Q)


def test_the_fcfs_counterfactual_is_what_fcfs_really_does(redis_url: str) -> None:
    # The same burst twice: served short first, each job records its wait under FCFS; then it is
    # really served FCFS. With exact predictions and one slot the two agree.
    lengths = [(i * 37) % 90 + 10 for i in range(120)]
    arrivals = [Arrival(i * 20.0, job(f"j{i:04}", "a", n), n) for i, n in enumerate(lengths)]

    async def body(store: JobStore) -> None:
        short_first = await serve(store, arrivals, 1)
        recorded = {}
        for a in arrivals:
            record = await store.get(Q, a.job.id)
            assert record is not None
            assert record.fcfs_wait_ms is not None
            recorded[a.job.id] = record.fcfs_wait_ms
        stats = await store.stats(Q)
        await store.client.flushdb()
        await store.put_queue(Q, QueueSettings(policy="fcfs"))
        really = await serve(store, arrivals, 1)
        # A job starts only when a slot is free, so the clock stands still between two claims:
        # off by the longest job at most, and by much less on the mean.
        assert max(abs(recorded[i] - really[i]) for i in recorded) <= 100
        mean = sum(really.values()) / len(really)
        assert sum(recorded.values()) / len(recorded) == pytest.approx(mean, rel=0.03)
        assert stats.mean_fcfs_wait_ms == pytest.approx(mean, rel=0.03)
        assert stats.mean_wait_ms == pytest.approx(sum(short_first.values()) / 120, abs=1)
        assert stats.mean_wait_ms is not None
        assert stats.mean_wait_ms < mean

    run(body, redis_url)


def test_a_job_that_left_the_queue_unserved_is_in_neither_mean_wait(redis_url: str) -> None:
    # After a pause in which jobs expired, the reported mean wait was 157 s under first come first
    # served and 37 s in fact: expired jobs counted in the first mean alone.
    async def body(store: JobStore) -> None:
        await submit(store, "a0", "a", 10)
        await submit(store, "a1", "a", 10, ttl_ms=1000)
        await submit(store, "a2", "a", 10)
        assert store.now_ms is not None
        store.now_ms += 500
        [claim] = await store.claim(Q, worker_id="w", count=1)
        await store.finish(Q, claim.lease, Outcome(kind=OutcomeKind.OK), worker_id="w")
        store.now_ms += 60_000
        await store.cancel(Q, "a2")
        await store.tick(Q)
        stats = await store.stats(Q)
        assert (stats.mean_wait_ms, stats.mean_fcfs_wait_ms) == (500, 500)

    run(body, redis_url)


def test_a_late_prediction_moves_a_waiting_job_and_not_one_that_runs(redis_url: str) -> None:
    from lengthwise_contract.prediction import Prediction

    prediction = Prediction(
        model_version="v1", p10_tokens=1, p50_tokens=5, p90_tokens=9, mean_tokens=5, rank_score=2
    )

    async def body(store: JobStore) -> None:
        await submit(store, "a0", "a", 100)
        await submit(store, "a1", "a", 500)
        price: dict[str, Any] = {
            "slack_ms": 15.0,
            "predicted_tokens": 5.0,
            "predicted_ms": 5.0,
            "prediction": prediction,
        }
        assert await store.reprice(Q, "a1", **price) == T0 + 15
        [claim] = await store.claim(Q, worker_id="w", count=1)
        assert claim.lease.job_id == "a1"
        assert await store.reprice(Q, "a1", **price) is None
        assert await store.reprice(Q, "nope", **price) is None
        found = await store.get(Q, "a1")
        assert found is not None
        assert found.prediction == prediction
        assert (await store.stats(Q)).backlog_tokens == 100

    run(body, redis_url)


def test_a_dead_letter_redriven_has_all_its_attempts_again_and_a_clean_stream(
    redis_url: str,
) -> None:
    async def body(store: JobStore) -> None:
        await submit(store, "a0", "a", 10, max_attempts=1)
        [claim] = await store.claim(Q, worker_id="w", count=1)
        bad = Outcome(kind=OutcomeKind.RETRY, output_tokens=3)
        await store.finish(Q, claim.lease, bad, chunks=[b"old"], worker_id="w")
        page = await store.dead(Q, ["a", "b"])
        assert [j.id for j in page.jobs] == ["a0"]
        assert await store.redrive(Q, "a0") is JobState.QUEUED
        assert await store.redrive(Q, "a0") is JobState.QUEUED  # a second call changes nothing
        assert (await store.dead(Q, ["a"])).jobs == []
        [again] = await store.claim(Q, worker_id="w", count=1)
        assert again.body == b"{}"
        ok = Outcome(kind=OutcomeKind.OK, output_tokens=10, service_ms=1)
        await store.finish(Q, again.lease, ok, chunks=[b"new"], worker_id="w")
        entries = await store.read_output(Q, "a0")
        assert [(e.kind.value, e.data) for e in entries[:-1]] == [
            ("attempt", b""),
            ("chunk", b"new"),
        ]
        assert await store.redrive(Q, "a0") is JobState.SUCCEEDED
        assert await store.redrive(Q, "nope") is None

    run(body, redis_url)


def test_a_dead_letter_whose_request_is_gone_stays_dead(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await submit(store, "a0", "a", 10)
        [claim] = await store.claim(Q, worker_id="w", count=1)
        await store.finish(Q, claim.lease, Outcome(kind=OutcomeKind.ERROR), worker_id="w")
        await store.client.delete(f"lw:{{{Q}}}:in:a0")
        assert await store.redrive(Q, "a0") is JobState.FAILED

    run(body, redis_url)


def test_a_listing_gives_each_of_a_tenants_jobs_once_page_by_page(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        for i in range(40):
            await submit(store, f"a{i:02}", "a", 10, delay_ms=500 if i % 4 == 0 else 0)
            await submit(store, f"b{i:02}", "b", 10)
        for claim in await store.claim(Q, worker_id="w", count=30):
            if int(claim.lease.job_id[1:]) % 2:
                kind = OutcomeKind.OK if claim.lease.job_id[2] in "135" else OutcomeKind.ERROR
                await store.finish(Q, claim.lease, Outcome(kind=kind), worker_id="w")
        got: list[str] = []
        states: list[JobState] = []
        after = None
        while True:
            page = await store.jobs(Q, "a", after=after, limit=7)
            got += [j.id for j in page.jobs]
            states += [j.state for j in page.jobs]
            after = page.after
            if after is None:
                break
        assert sorted(got) == [f"a{i:02}" for i in range(40)]
        assert set(states) == {
            JobState.RUNNING,
            JobState.QUEUED,
            JobState.SCHEDULED,
            JobState.SUCCEEDED,
            JobState.FAILED,
        }
        only = await store.jobs(Q, "a", state=JobState.SCHEDULED)
        assert [j.id for j in only.jobs] == [f"a{i:02}" for i in range(0, 40, 4)]
        with pytest.raises(ValueError, match="cursor"):
            await store.jobs(Q, "a", after="nonsense")

    run(body, redis_url)


def test_the_snapshot_of_all_tenants_is_in_the_order_in_which_jobs_are_claimed(
    redis_url: str,
) -> None:
    async def body(store: JobStore) -> None:
        for i in range(12):
            await submit(store, f"a{i:02}", "a", 10 + 13 * i)
            await submit(store, f"b{i:02}", "b", 200 - 7 * i, tenant_weight=4.0)
        await submit(store, "c00", "c", 5)
        snapshot = await store.snapshot(Q, 100)
        claims = [(await store.claim(Q, worker_id="w", count=1))[0] for _ in range(25)]
        assert [j.id for j in snapshot.waiting] == [c.lease.job_id for c in claims]
        mine = await store.snapshot(Q, 100, tenant="c")
        assert [j.id for j in (*mine.waiting, *mine.running)] == ["c00"]

    run(body, redis_url)


def test_a_tenant_whose_only_job_ran_over_a_tick_is_still_known_when_it_ends(
    redis_url: str,
) -> None:
    # The tick forgot it, because no job of it waited and none had ended: its answer was missing
    # from the snapshot (`lengthwise top` after the first request), and was never trimmed.
    async def body(store: JobStore) -> None:
        await submit(store, "a0", "once", 10)
        [claim] = await store.claim(Q, worker_id="w", count=1)
        await store.tick(Q)
        await store.finish(Q, claim.lease, Outcome(kind=OutcomeKind.OK), worker_id="w")
        assert [ended.id for ended in (await store.snapshot(Q, 10)).finished] == ["a0"]
        assert store.now_ms is not None
        store.now_ms += store.settings.retention_ms + 1
        await store.tick(Q)
        assert [key async for key in store.client.scan_iter() if b"once" in key] == []

    run(body, redis_url)


def test_a_tenant_whose_only_job_ran_over_a_tick_is_still_known_when_it_is_retried(
    redis_url: str,
) -> None:
    # The tick forgot it, as above: its delayed job was in no tenant's count.
    async def body(store: JobStore) -> None:
        await submit(store, "a0", "once", 10)
        [claim] = await store.claim(Q, worker_id="w", count=1)
        await store.tick(Q)
        outcome = Outcome(kind=OutcomeKind.RETRY, delay_ms=500)
        assert (await store.finish(Q, claim.lease, outcome, worker_id="w")).state == "scheduled"
        stats = await store.stats(Q)
        assert [(t.tenant, t.scheduled) for t in stats.tenants] == [("once", 1)]

    run(body, redis_url)


def test_a_tenant_that_is_gone_leaves_nothing_behind(redis_url: str) -> None:
    async def body(store: JobStore) -> None:
        await submit(store, "a0", "once", 10)
        [claim] = await store.claim(Q, worker_id="w", count=1)
        await store.finish(Q, claim.lease, Outcome(kind=OutcomeKind.OK), worker_id="w")
        assert store.now_ms is not None
        store.now_ms += store.settings.retention_ms + 1
        await store.tick(Q)
        assert (await store.stats(Q)).tenants == []
        left = [key async for key in store.client.scan_iter() if b"once" in key]
        assert left == []

    run(body, redis_url)


@pytest.mark.slow
@pytest.mark.parametrize("shorts", [20, 700])
def test_when_the_queue_is_empty_every_job_has_its_fcfs_wait(redis_url: str, shorts: int) -> None:
    # The long job came first, so first come first served would have started it first. It is
    # claimed last, and no claim follows that could resolve the others.
    async def body(store: JobStore) -> None:
        await submit(store, "long", "a", 10_000)
        names = [f"short{i}" for i in range(shorts)]
        for name in names:
            await submit(store, name, "a", 1)
        for _ in range(shorts + 1):
            assert await store.claim(Q, worker_id="w", count=1)
        await store.tick(Q)
        for name in ["long", *names]:
            record = await store.get(Q, name)
            assert record is not None
            assert record.fcfs_wait_ms is not None

    run(body, redis_url)
