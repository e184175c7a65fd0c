"""The store against a small model of what it promises, over any sequence of events."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

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

from lengthwise_contract.api import JobError, WorkerView
from lengthwise_contract.states import TERMINAL, JobState
from lengthwise_queue.jobs import (
    Accepted,
    Claim,
    EntryKind,
    LeaseState,
    NewJob,
    Outcome,
    OutcomeKind,
    QueueFull,
)
from lengthwise_queue.redis_store import RedisJobStore, StoreSettings

T = TypeVar("T")
Q = "model"
T0 = 1_760_000_000_000.0
MAX_DEPTH = 8
SETTINGS = StoreSettings(lease_ms=1000)
WORKER = WorkerView(id="w", slots=1, running=0, engine="test", seen_ms=0)


@dataclass
class Model:
    """One job, as it should be."""

    state: JobState
    due_ms: float
    deadline_ms: float
    max_attempts: int
    cost: int
    not_before_ms: float = 0.0
    lease_end_ms: float = 0.0
    attempt: int = 0
    spent: int = 0
    cancel: JobState | None = None
    held: Claim | None = None
    stale: list[Claim] = field(default_factory=list)
    chunks: list[tuple[int, bytes]] = field(default_factory=list)


class StoreMachine(RuleBasedStateMachine):
    """Events in any order; after each, Redis holds what the model says."""

    port: int

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.url = f"redis://127.0.0.1:{self.port}/1"
        self.raw = redis.Redis.from_url(self.url)
        self.raw.flushdb()
        self.now = T0
        self.store = RedisJobStore(self.url, SETTINGS, now_ms=self.now)
        self.jobs: dict[str, Model] = {}
        self.pieces = 0

    def teardown(self) -> None:
        self.wait(self.store.aclose())
        self.raw.close()
        self.loop.close()

    def wait(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    def of(self, *states: JobState) -> list[str]:
        return [job_id for job_id, job in self.jobs.items() if job.state in states]

    def end(self, job: Model, state: JobState) -> None:
        job.state = state
        if job.held is not None:
            job.stale.append(job.held)
        job.held = None

    @initialize()
    def empty(self) -> None:
        assert self.wait(self.store.claim(Q, worker_id="w", count=3)) == []

    @rule(
        slack=st.integers(0, 5000),
        cost=st.integers(1, 500),
        delay=st.sampled_from([0, 0, 700]),
        ttl=st.sampled_from([500, 60_000, 60_000]),
        attempts=st.integers(1, 3),
    )
    def submit(self, slack: int, cost: int, delay: int, ttl: int, attempts: int) -> None:
        job_id = f"{len(self.jobs):04}"
        new = NewJob(
            id=job_id,
            endpoint="/v1/completions",
            body=b"{}",
            job_class="interactive",
            slack_ms=float(slack),
            predicted_tokens=float(cost),
            predicted_ms=float(slack),
            prediction=None,
            max_attempts=attempts,
            delay_ms=delay,
            ttl_ms=ttl,
            max_depth=MAX_DEPTH,
        )
        answer = self.wait(self.store.submit(Q, new))
        depth = len(self.of(JobState.QUEUED, JobState.SCHEDULED))
        if depth >= MAX_DEPTH:
            assert answer == QueueFull(depth=depth)
            return
        state = JobState.SCHEDULED if delay else JobState.QUEUED
        due = self.now + delay + slack
        assert answer == Accepted(id=job_id, state=state, accepted_ms=self.now, due_ms=due)
        self.jobs[job_id] = Model(
            state=state,
            due_ms=due,
            deadline_ms=self.now + delay + ttl,
            max_attempts=attempts,
            cost=cost,
            not_before_ms=self.now + delay,
        )

    @rule(count=st.integers(1, 4))
    def claim(self, count: int) -> None:
        claims = self.wait(self.store.claim(Q, worker_id="w", count=count))
        want: list[str] = []
        line = sorted(self.of(JobState.QUEUED), key=lambda i: (self.jobs[i].due_ms, i))
        for job_id in line:
            if len(want) == count:
                break
            job = self.jobs[job_id]
            if job.deadline_ms <= self.now:
                self.end(job, JobState.EXPIRED)
            else:
                want.append(job_id)
        assert [c.lease.job_id for c in claims] == want
        for claim in claims:
            job = self.jobs[claim.lease.job_id]
            job.state, job.held = JobState.RUNNING, claim
            job.attempt, job.spent = job.attempt + 1, job.spent + 1
            job.lease_end_ms = self.now + SETTINGS.lease_ms
            assert claim.lease.attempt == job.attempt
            assert claim.due_ms == job.due_ms

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
        self.end(job, want)
        again = self.wait(self.store.finish(Q, lease, outcome, worker_id="w"))
        assert again.state is want

    @precondition(lambda self: any(job.stale for job in self.jobs.values()))
    @rule(data=st.data())
    def a_stale_worker_speaks(self, data: st.DataObject) -> None:
        with_stale = [job for job in self.jobs.values() if job.stale]
        # The dangerous one is a job that runs again, on somebody else's lease.
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
    def time_passes(self, ms: int) -> None:
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
                job.state = JobState.QUEUED

    def members(self, name: str) -> set[str]:
        found: Any = self.raw.zrange(f"lw:{{{Q}}}:{name}", 0, -1)
        return {one.decode() for one in found}

    @invariant()
    def every_job_is_where_its_state_says_and_nowhere_else(self) -> None:
        assert self.members("ready:default") == set(self.of(JobState.QUEUED))
        assert self.members("accepted") == set(self.of(JobState.QUEUED))
        assert self.members("leases") == set(self.of(JobState.RUNNING))
        assert self.members("delayed") == set(self.of(JobState.SCHEDULED))
        assert self.members("dead:default") == set(self.of(JobState.FAILED))

    @invariant()
    def counters_are_the_cardinalities(self) -> None:
        stats = self.wait(self.store.stats(Q))
        want = sum(self.jobs[i].cost for i in self.of(JobState.QUEUED))
        assert stats.backlog_tokens == want
        assert stats.counters.get("accepted", 0) == len(self.jobs)
        for state in TERMINAL:
            assert stats.counters.get(state, 0) == len(self.of(state))

    @invariant()
    def there_is_a_wake_marker_when_there_is_work(self) -> None:
        if self.of(JobState.QUEUED):
            assert self.members("wake") == {"work"}

    @invariant()
    def records_and_streams_tell_the_same_story(self) -> None:
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


@pytest.mark.slow
def test_the_store_does_what_the_model_does_over_any_sequence_of_events(valkey_port: int) -> None:
    class Machine(StoreMachine):
        port = valkey_port

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
