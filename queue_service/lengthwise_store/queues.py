"""The values of a queue: settings, counters, listings, the report of a tick.

All times are ms since the epoch by the Redis server's clock, as floats with us in the fraction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lengthwise_contract.defaults import LEASE_MS
from lengthwise_contract.queue_settings import PolicyName, QueueSettings
from lengthwise_contract.queue_views import WorkerView
from lengthwise_store.jobs import Job
from lengthwise_store.prediction_record import FitRecord, MeasuredAnswer, Served


@dataclass(frozen=True, kw_only=True)
class Queue:
    """A queue and its settings."""

    name: str
    settings: QueueSettings  #: In force: what people set, else what a worker published.
    set_fields: frozenset[str] = frozenset()  #: The settings that people set.
    published: Mapping[str, Any] = field(default_factory=dict)  #: What a worker published last.


class Mode(StrEnum):
    """The mode of a queue."""

    OPEN = "open"  #: Accepts jobs and serves them.
    PAUSED = "paused"  #: Accepts jobs and serves none; running jobs continue.
    DRAINING = "draining"  #: Accepts no jobs and serves those that it has.


@dataclass(frozen=True, kw_only=True)
class QueueBusy:
    """Not removed: the queue has jobs, dead letters or workers. Nothing was changed."""

    waiting: int
    scheduled: int
    running: int
    dead: int  #: At least so many dead letters.
    workers: int  #: With a recent heartbeat.


@dataclass(frozen=True, kw_only=True)
class TickReport:
    """The numbers of jobs that one tick moved."""

    promoted: int = 0  #: scheduled -> queued
    returned: int = 0  #: Leases that ran out; back in the queue with the original due time.
    failed: int = 0  #: Leases that ran out on the last attempt.
    expired: int = 0  #: Deadlines that passed.
    cancelled: int = 0  #: Leases that ran out on a job whose cancellation was requested.


@dataclass(frozen=True, kw_only=True)
class TenantBacklog:
    """The jobs of one tenant in a queue. `virtual_time`: tokens served / weight, to compare."""

    tenant: str
    depth: int
    scheduled: int
    dead: int
    virtual_time: float


@dataclass(frozen=True, kw_only=True)
class QueueStats:
    """The counters of one queue, read at one instant."""

    now_ms: float
    depth: int
    scheduled: int
    in_flight: int
    dead: int
    backlog_tokens: float
    oldest_accepted_ms: float | None
    ms_per_token: float | None  #: Measured; None before any job has finished.
    median_tokens: float | None  #: Measured; None before any job has finished.
    counters: dict[str, int]  #: accepted, succeeded, failed, cancelled, expired, ...
    workers: list[WorkerView]
    mode: Mode = Mode.OPEN
    active_policy: PolicyName = "sjf"  #: The policy in force; `fcfs` while sjf is suspended.
    fallback: bool = False  #: sjf is suspended, because its predictions are of no value.
    mean_wait_ms: float | None = None  #: Of all jobs so far, until their first start.
    mean_fcfs_wait_ms: float | None = None  #: The same, had the order been first come first served.
    answers: list[MeasuredAnswer] = field(default_factory=list)  #: The last ones, newest first.
    created_ms: float | None = None  #: When the queue was made; None: by an older release.
    serving: Served = "static"  #: Whose predictions the queue serves.
    fit: FitRecord | None = None  #: What was learned last; None: nothing.
    judged_from: int = 0  #: `counters["succeeded"]` when the LLM that answers now began.
    judged_at: int = 0  #: `counters["succeeded"]` when the predictor was last judged.
    tenants: list[TenantBacklog] = field(default_factory=list)

    @property
    def live_workers(self) -> list[WorkerView]:
        """The workers that were heard of within a lease; a job of any other is lost by now."""
        return [worker for worker in self.workers if self.now_ms - worker.seen_ms < LEASE_MS]


@dataclass(frozen=True, kw_only=True)
class JobPage:
    """One page of a listing; `after` is the cursor of the next page, None: this is the last."""

    jobs: list[Job]
    after: str | None


@dataclass(frozen=True, kw_only=True)
class JobSnapshot:
    """The jobs of a queue at one instant: `waiting` in the order in which they are served next."""

    now_ms: float
    waiting: list[Job]
    running: list[Job]  #: The longest running first.
    finished: list[Job]  #: The last finished first.


@dataclass(frozen=True, kw_only=True)
class Position:
    """The place of a waiting job: its tenant's jobs ahead of it, and the predicted tokens ahead.

    The tokens are exact up to 1,000 jobs ahead; beyond that they are scaled by the mean. Where
    other tenants wait too, they include what those are served meanwhile, by the weights.
    """

    ahead: int
    tokens_ahead: float
