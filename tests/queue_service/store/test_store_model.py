"""The store against a small model of its promises, over any sequence of events."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lengthwise_contract.jobs import JobError
from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import PolicyName, QueueSettings
from lengthwise_contract.queue_views import WorkerView
from lengthwise_contract.states import TERMINAL, Event, JobState
from lengthwise_store.jobs import (
    Accepted,
    Claim,
    Draining,
    EntryKind,
    LeaseState,
    NewJob,
    Outcome,
    OutcomeKind,
    QueueFull,
    TenantFull,
)
from lengthwise_store.queues import Mode
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore

T = TypeVar("T")
Q = "model"
T0 = 1_760_000_000_000.0
MAX_DEPTH = 8
MAX_SHARE = 5
PREDICTION = Prediction(
    model_version="v", p10_tokens=1, p50_tokens=7, p90_tokens=9, mean_tokens=7, rank_score=0
)
SETTINGS = StoreSettings(lease_ms=1000)
WORKER = WorkerView(id="w", slots=1, running=0, engine="test", seen_ms=0)


@dataclass
class Model:
    """One job, as it should be."""

    state: JobState
    tenant: str
    since_ms: float
    slack_ms: float
    offset_ms: float
    ttl_ms: float
    deadline_ms: float
    max_attempts: int
    cost: int
    due_ms: float = 0.0
    charged: int = 0
    not_before_ms: float = 0.0
    lease_end_ms: float = 0.0
    attempt: int = 0
    spent: int = 0
    cancel: JobState | None = None
    held: Claim | None = None
    stale: list[Claim] = field(default_factory=list)
    chunks: list[tuple[int, bytes]] = field(default_factory=list)


class Fair:
    """Start-time fair queueing between tenants, as it should be."""

    #: Powers of two, so that every division is exact and the model can ask for equality.
    WEIGHTS: ClassVar = {"a": 1.0, "b": 2.0, "c": 0.5}

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self.active: set[str] = set()
        self.now = 0.0

    def wakes(self, tenant: str) -> None:
        if tenant not in self.active:
            self.active.add(tenant)
            self.times[tenant] = max(self.times.get(tenant, 0.0), self.now)

    def rests(self, tenant: str) -> None:
        self.active.discard(tenant)
        if not self.active:
            self.now = max(self.now, self.times[tenant])

    def next(self) -> str | None:
        return min(self.active, key=lambda t: (self.times[t], t), default=None)

    def charge(self, tenant: str, cost: int) -> int:
        """What a claim is charged: nothing while no other tenant waits."""
        if len(self.active) == 1:
            return 0
        self.now = self.times[tenant]
        self.times[tenant] += cost / self.WEIGHTS[tenant]
        return cost


class StoreMachine(RuleBasedStateMachine):
    """Events in any order; after each, Redis equals the model."""

    #: The URL of a server that no other test uses: a queue service ticks every queue that it finds,
    #: with the real time and not the time of these jobs.
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.raw = redis.Redis.from_url(self.url)
        self.raw.flushdb()
        self.now = T0
        self.store = JobStore(self.url, SETTINGS, now_ms=self.now)
        self.jobs: dict[str, Model] = {}
        self.pieces = 0
        self.fair = Fair()
        self.mode = Mode.OPEN
        self.policy: PolicyName = "sjf"
        self.fallback = False
        self.redriven = 0

    def teardown(self) -> None:
        self.wait(self.store.aclose())
        self.raw.close()
        self.loop.close()

    def wait(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    def of(self, *states: JobState) -> list[str]:
        return [job_id for job_id, job in self.jobs.items() if job.state in states]

    @property
    def by_length(self) -> bool:
        return self.policy == "sjf" and not self.fallback

    def queue(self, job: Model) -> None:
        """Put a job into the queue."""
        job.state = JobState.QUEUED
        job.due_ms = job.since_ms + (job.slack_ms if self.by_length else job.offset_ms)
        self.fair.wakes(job.tenant)

    def left_the_queue(self, job: Model) -> None:
        if not [j for j in self.waiting_of(job.tenant) if self.jobs[j] is not job]:
            self.fair.rests(job.tenant)

    def waiting_of(self, tenant: str) -> list[str]:
        waiting = [i for i in self.of(JobState.QUEUED) if self.jobs[i].tenant == tenant]
        return sorted(waiting, key=lambda i: (self.jobs[i].due_ms, i))

    def end(self, job: Model, state: JobState) -> None:
        if job.state is JobState.QUEUED:
            self.left_the_queue(job)
        job.state = state
        if job.held is not None:
            job.stale.append(job.held)
        job.held = None
        if state is JobState.QUEUED:
            self.queue(job)

    @initialize()
    def empty(self) -> None:
        assert self.wait(self.store.claim(Q, worker_id="w", count=3)) == []

    @rule(
        tenant=st.sampled_from(sorted(Fair.WEIGHTS)),
        slack=st.integers(0, 5000),
        offset=st.sampled_from([0, 0, 600]),
        cost=st.integers(1, 500),
        delay=st.sampled_from([0, 0, 700]),
        ttl=st.sampled_from([500, 60_000, 60_000]),
        attempts=st.integers(1, 3),
    )
    def submit(
        self, tenant: str, slack: int, offset: int, cost: int, delay: int, ttl: int, attempts: int
    ) -> None:
        job_id = f"{len(self.jobs):04}"
        new = NewJob(
            id=job_id,
            endpoint="/v1/completions",
            body=b"{}",
            job_class="interactive",
            slack_ms=float(slack + offset),
            offset_ms=float(offset),
            predicted_tokens=float(cost),
            predicted_ms=float(slack),
            prediction=None,
            max_attempts=attempts,
            delay_ms=delay,
            ttl_ms=ttl,
            max_depth=MAX_DEPTH,
            tenant=tenant,
            tenant_weight=Fair.WEIGHTS[tenant],
            tenant_max_depth=MAX_SHARE,
        )
        answer = self.wait(self.store.submit(Q, new))
        waiting = self.of(JobState.QUEUED, JobState.SCHEDULED)
        own = [i for i in waiting if self.jobs[i].tenant == tenant]
        if self.mode is Mode.DRAINING:
            assert answer == Draining()
            return
        if len(waiting) >= MAX_DEPTH:
            assert answer == QueueFull(depth=len(waiting))
            return
        if len(own) >= MAX_SHARE:
            assert answer == TenantFull(depth=len(own))
            return
        job = Model(
            state=JobState.SCHEDULED,
            tenant=tenant,
            since_ms=self.now + delay,
            slack_ms=float(slack + offset),
            offset_ms=float(offset),
            ttl_ms=ttl,
            deadline_ms=self.now + delay + ttl,
            max_attempts=attempts,
            cost=cost,
            not_before_ms=self.now + delay,
        )
        job.due_ms = job.since_ms + (job.slack_ms if self.by_length else job.offset_ms)
        self.jobs[job_id] = job
        if not delay:
            self.queue(job)
        assert answer == Accepted(
            id=job_id, state=job.state, accepted_ms=self.now, due_ms=job.due_ms
        )

    @rule(count=st.integers(1, 4))
    def claim(self, count: int) -> None:
        claims = self.wait(self.store.claim(Q, worker_id="w", count=count))
        want: list[str] = []
        while self.mode is not Mode.PAUSED and len(want) < count:
            tenant = self.fair.next()
            if tenant is None:
                break
            job_id = self.waiting_of(tenant)[0]
            job = self.jobs[job_id]
            if job.deadline_ms <= self.now:
                self.end(job, JobState.EXPIRED)
                continue
            job.charged = self.fair.charge(tenant, job.cost)
            self.left_the_queue(job)
            job.state = JobState.RUNNING
            want.append(job_id)
        assert [c.lease.job_id for c in claims] == want
        for claim in claims:
            job = self.jobs[claim.lease.job_id]
            assert (claim.waited_ms is None) == (job.attempt > 0)
            job.held = claim
            job.attempt, job.spent = job.attempt + 1, job.spent + 1
            job.lease_end_ms = self.now + SETTINGS.lease_ms
            assert claim.lease.attempt == job.attempt
            assert claim.due_ms == job.due_ms
            assert claim.tenant == job.tenant

    # Mostly open, because little happens in the other modes.
    @rule(mode=st.sampled_from([Mode.OPEN] * 4 + [Mode.PAUSED, Mode.DRAINING]))
    def set_mode(self, mode: Mode) -> None:
        self.wait(self.store.set_mode(Q, mode))
        self.mode = mode

    @rule(policy=st.sampled_from(["sjf", "fcfs", "shadow"]))
    def switch_policy(self, policy: PolicyName) -> None:
        self.wait(self.store.put_queue(Q, QueueSettings(policy=policy)))
        self.policy = policy
        self.reorder()

    @rule(on=st.booleans())
    def fall_back(self, on: bool) -> None:
        self.wait(self.store.set_fallback(Q, on=on))
        self.fallback = on
        self.reorder()

    def reorder(self) -> None:
        for job_id in self.of(JobState.QUEUED):
            job = self.jobs[job_id]
            job.due_ms = job.since_ms + (job.slack_ms if self.by_length else job.offset_ms)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), cost=st.integers(1, 500), slack=st.integers(0, 5000))
    def reprice(self, data: st.DataObject, cost: int, slack: int) -> None:
        job_id = data.draw(st.sampled_from(list(self.jobs)))
        job = self.jobs[job_id]
        due = self.wait(
            self.store.reprice(
                Q,
                job_id,
                slack_ms=float(slack),
                predicted_tokens=float(cost),
                predicted_ms=1.0,
                prediction=PREDICTION,
            )
        )
        if job.state not in (JobState.QUEUED, JobState.SCHEDULED):
            assert due is None
            return
        job.cost, job.slack_ms = cost, float(slack)
        job.due_ms = job.since_ms + (job.slack_ms if self.by_length else job.offset_ms)
        assert due == job.due_ms

    @precondition(lambda self: self.of(JobState.FAILED))
    @rule(data=st.data())
    def redrive(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(self.of(JobState.FAILED)))
        job = self.jobs[job_id]
        assert self.wait(self.store.redrive(Q, job_id)) is JobState.QUEUED
        job.since_ms, job.deadline_ms = self.now, self.now + job.ttl_ms
        job.spent, job.cancel = 0, None
        job.chunks.clear()
        self.redriven += 1
        self.queue(job)

    @precondition(lambda self: self.of(JobState.RUNNING))
    @rule(data=st.data())
    def emit(self, data: st.DataObject) -> None:
        job = self.jobs[data.draw(st.sampled_from(self.of(JobState.RUNNING)))]
        assert job.held is not None
        self.pieces += 1
        piece = b"%d" % self.pieces
        answer = self.wait(self.store.emit(Q, job.held.lease, [piece]))
        assert answer is (LeaseState.CANCEL if job.cancel else LeaseState.HELD)
        job.chunks.append((job.attempt, piece))
        job.lease_end_ms = self.now + SETTINGS.lease_ms

    @rule()
    def beat(self) -> None:
        held = [job for job in self.jobs.values() if job.held is not None]
        leases = [job.held.lease for job in held if job.held is not None]
        answer = self.wait(self.store.beat(Q, worker=WORKER, leases=leases))
        for job in held:
            assert job.held is not None
            want = LeaseState.CANCEL if job.cancel else LeaseState.HELD
            assert answer[job.held.lease.job_id] is want
            job.lease_end_ms = self.now + SETTINGS.lease_ms

    @precondition(lambda self: self.of(JobState.RUNNING))
    @rule(data=st.data(), kind=st.sampled_from(list(OutcomeKind)), delay=st.sampled_from([0, 300]))
    def finish(self, data: st.DataObject, kind: OutcomeKind, delay: int) -> None:
        job = self.jobs[data.draw(st.sampled_from(self.of(JobState.RUNNING)))]
        assert job.held is not None
        error = JobError(code="e", message="m") if kind is not OutcomeKind.OK else None
        outcome = Outcome(kind=kind, output_tokens=5, service_ms=10, delay_ms=delay, error=error)
        answer = self.wait(self.store.finish(Q, job.held.lease, outcome, worker_id="w"))
        if job.cancel is not None:
            want = job.cancel
        elif kind is OutcomeKind.OK:
            want = JobState.SUCCEEDED
        elif kind is OutcomeKind.ERROR or (
            kind is OutcomeKind.RETRY and job.spent >= job.max_attempts
        ):
            want = JobState.FAILED
        else:
            scheduled = kind is OutcomeKind.RETRY or delay > 0
            want = JobState.SCHEDULED if scheduled else JobState.QUEUED
            job.spent -= kind is not OutcomeKind.RETRY
            job.not_before_ms = self.now + delay
        assert answer.state is want
        lease = job.held.lease
        used = 0 if kind is OutcomeKind.RELEASE else 5
        if job.charged:
            self.fair.times[job.tenant] += (used - job.charged) / Fair.WEIGHTS[job.tenant]
        self.end(job, want)
        again = self.wait(self.store.finish(Q, lease, outcome, worker_id="w"))
        assert again.state is want

    @precondition(lambda self: any(job.stale for job in self.jobs.values()))
    @rule(data=st.data())
    def report_of_a_stale_worker(self, data: st.DataObject) -> None:
        with_stale = [job for job in self.jobs.values() if job.stale]
        # The dangerous case is a job that runs again, on the lease of another worker.
        again = [job for job in with_stale if job.state is JobState.RUNNING]
        lease = data.draw(st.sampled_from(again or with_stale)).stale[-1].lease
        assert self.wait(self.store.emit(Q, lease, [b"ghost"])) is LeaseState.LOST
        answer = self.wait(self.store.beat(Q, worker=WORKER, leases=[lease]))
        assert answer == {lease.job_id: LeaseState.LOST}

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(list(self.jobs)))
        job = self.jobs[job_id]
        answer = self.wait(self.store.cancel(Q, job_id))
        if job.state is JobState.RUNNING:
            job.cancel = job.cancel or JobState.CANCELLED
        elif job.state not in TERMINAL:
            self.end(job, JobState.CANCELLED)
        assert answer is job.state

    @rule(ms=st.sampled_from([1, 400, 1100]))
    def tick(self, ms: int) -> None:
        self.now += ms
        self.store.now_ms = self.now
        self.wait(self.store.tick(Q))
        for job in self.jobs.values():
            if job.state is JobState.RUNNING and job.lease_end_ms <= self.now:
                if job.cancel is not None:
                    self.end(job, job.cancel)
                elif job.spent >= job.max_attempts:
                    self.end(job, JobState.FAILED)
                else:
                    self.end(job, JobState.QUEUED)
            if job.deadline_ms <= self.now:
                if job.state is JobState.RUNNING:
                    job.cancel = job.cancel or JobState.EXPIRED
                elif job.state not in TERMINAL:
                    self.end(job, JobState.EXPIRED)
            if job.state is JobState.SCHEDULED and job.not_before_ms <= self.now:
                self.queue(job)

    def members(self, name: str) -> set[str]:
        found: Any = self.raw.zrange(f"lw:{{{Q}}}:{name}", 0, -1)
        return {one.decode() for one in found}

    @invariant()
    def every_job_is_in_the_sets_of_its_state_and_in_no_others(self) -> None:
        for tenant in Fair.WEIGHTS:
            assert self.members(f"ready:{tenant}") == set(self.waiting_of(tenant))
        assert self.members("accepted") == set(self.of(JobState.QUEUED))
        assert self.members("leases") == set(self.of(JobState.RUNNING))
        assert self.members("delayed") == set(self.of(JobState.SCHEDULED))
        dead = {tenant: self.members(f"dead:{tenant}") for tenant in Fair.WEIGHTS}
        failed = {i: self.jobs[i].tenant for i in self.of(JobState.FAILED)}
        assert {i: tenant for tenant, ids in dead.items() for i in ids} == failed

    @invariant()
    def tenants_are_ordered_by_their_virtual_times(self) -> None:
        found: Any = self.raw.zrange(f"lw:{{{Q}}}:tenants", 0, -1, withscores=True)
        want = {tenant: self.fair.times[tenant] for tenant in self.fair.active}
        assert {name.decode(): score for name, score in found} == want
        assert self.fair.active == {self.jobs[i].tenant for i in self.of(JobState.QUEUED)}

    @invariant()
    def counters_are_the_cardinalities(self) -> None:
        stats = self.wait(self.store.stats(Q))
        want = sum(self.jobs[i].cost for i in self.of(JobState.QUEUED))
        assert stats.backlog_tokens == want
        assert stats.depth == len(self.of(JobState.QUEUED))
        assert stats.scheduled == len(self.of(JobState.SCHEDULED))
        assert stats.dead == len(self.of(JobState.FAILED))
        reported = {t.tenant: (t.depth, t.scheduled) for t in stats.tenants}
        for tenant in {job.tenant for job in self.jobs.values()}:
            scheduled = [i for i in self.of(JobState.SCHEDULED) if self.jobs[i].tenant == tenant]
            assert reported.get(tenant, (0, 0)) == (len(self.waiting_of(tenant)), len(scheduled))
        assert (stats.mode, stats.active_policy == "sjf") == (self.mode, self.by_length)
        assert stats.counters.get("accepted", 0) == len(self.jobs)
        for state in TERMINAL - {JobState.FAILED}:
            assert stats.counters.get(state, 0) == len(self.of(state))
        failed = len(self.of(JobState.FAILED)) + self.redriven
        assert stats.counters.get("failed", 0) == failed

    @invariant()
    def there_is_a_wake_marker_when_there_is_work(self) -> None:
        if self.mode is Mode.PAUSED:
            assert self.members("wake") == set()
        elif self.of(JobState.QUEUED):
            assert self.members("wake") == {"work"}

    @invariant()
    def the_list_of_the_fcfs_counterfactual_is_bounded(self) -> None:
        # Never more entries than times that jobs entered the queue.
        assert self.raw.llen(f"lw:{{{Q}}}:fcfs") <= len(self.jobs) + self.redriven

    @invariant()
    def records_and_streams_agree(self) -> None:
        for job_id, job in self.jobs.items():
            record = self.wait(self.store.get(Q, job_id))
            assert record is not None
            assert (record.state, record.attempt, record.spent) == (
                job.state,
                job.attempt,
                job.spent,
            )
            assert record.due_ms == job.due_ms
            assert record.spent <= record.max_attempts
            entries = self.wait(self.store.read_output(Q, job_id))
            chunks = [(e.attempt, e.data) for e in entries if e.kind is EntryKind.CHUNK]
            assert chunks == job.chunks
            ends = [e for e in entries if e.kind is EntryKind.END]
            assert len(ends) == (job.state in TERMINAL)
            if ends:
                assert entries[-1] is ends[0]
                assert self.raw.pttl(f"lw:{{{Q}}}:job:{job_id}") > 0


def test_every_event_is_a_rule_of_the_machine() -> None:
    assert [event for event in Event if not hasattr(StoreMachine, event)] == []


def run_machine(redis_at: str, examples: int) -> None:
    class Machine(StoreMachine):
        url = redis_at

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=60,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_store_does_what_the_model_does_over_any_sequence_of_events(
    quiet_redis_url: str,
) -> None:
    run_machine(quiet_redis_url, 100)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_store_does_the_same_on_redis(redis_port: int) -> None:
    run_machine(f"redis://127.0.0.1:{redis_port}/1", 50)
