"""What goes into the store and what comes out of it. Values only; no client, no clock.

All times are ms since the epoch by the Redis server's clock, as floats with us in the fraction.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from lengthwise_contract.jobs import EndpointPath, JobError
from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import PolicyName, QueueSettings
from lengthwise_contract.queue_views import WorkerView
from lengthwise_contract.states import JobState

#: p10, p50 and p90 of a length, tokens.
Quantiles = tuple[float, float, float]

#: How long a prompt is, and how many lines it has: ten times the log of one more, rounded.
Shape = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What a price rests on beside the raw prediction; kept until the answer is there.

    From it and the answer the calibration is learned, so a cut answer must be known as one.
    """

    calibrated: Quantiles | None = None  #: What was reckoned with; None: the prediction itself.
    max_tokens: int | None = None  #: The request's cap on one answer; None: it has none.
    answers: int = 1  #: How many answers it asks for.
    shape: Shape = (0, 0)


#: Of a job that was priced without a prediction.
UNKNOWN_BASIS = Basis()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A finished job as the watch over the predictor sees it."""

    tokens: int  #: What was made, of all its answers.
    priced: float | None  #: What was expected of them all, tokens; None: there was no prediction.
    raw: Quantiles | None = None  #: As predicted, for one answer.
    said: Quantiles | None = None  #: The same after calibration.
    predictor: str = ""  #: Which predictor's, as `calibration.predictor_tag`; "": unknown.
    max_tokens: int | None = None
    count: int = 1
    shape: Shape = (0, 0)
    at_s: float | None = None  #: When it came, s since the epoch; None: nobody wrote it down.

    @property
    def was_cut(self) -> bool:
        """Whether it ended at its cap: the real length is at least this."""
        return self.max_tokens is not None and self.tokens >= self.max_tokens * self.count


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job as the front end hands it in.

    `id` is a UUIDv7: fixed width and time-ordered, so that equal due times leave in submit order.
    """

    id: str
    endpoint: EndpointPath
    body: bytes  #: The engine's request body, JSON, as it came.
    job_class: str
    slack_ms: float  #: due = accepted + this under `sjf`; from `policy.slack_ms`.
    offset_ms: float = 0.0  #: due = accepted + this under `fcfs` and `shadow`: the class alone.
    predicted_tokens: float
    predicted_ms: float
    prediction: Prediction | None  #: As the predictor said it.
    max_attempts: int
    delay_ms: int  #: Not served before accepted + this.
    ttl_ms: int  #: Expires unless finished by accepted + `delay_ms` + this.
    max_depth: int  #: Refused when this many are waiting or scheduled.
    idempotency_key: str | None = None  #: Of its tenant: two tenants may use the same.
    basis: Basis = UNKNOWN_BASIS
    fingerprint: str = ""  #: Of the request, to tell a repeat from a reused key.
    tenant: str = "default"
    tenant_weight: float = 1.0  #: Of two busy tenants, 2.0 gets twice the tokens of 1.0; > 0.
    tenant_max_depth: int | None = None  #: Refused when the tenant has this many; None: no cap.
    requests_per_minute: int | None = None  #: The tenant's; a bucket one minute deep.
    tokens_per_minute: int | None = None  #: The tenant's, of output; corrected at the end.


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The job is in the line (`duplicate`: it already was, under the same idempotency key)."""

    id: str
    state: JobState
    accepted_ms: float
    due_ms: float
    duplicate: bool = False


@dataclass(frozen=True, kw_only=True)
class QueueFull:
    """Not accepted: `depth` jobs wait already. Nothing was written."""

    depth: int


@dataclass(frozen=True, kw_only=True)
class TenantFull:
    """Not accepted: `depth` jobs of this tenant wait already. Nothing was written."""

    depth: int


@dataclass(frozen=True, kw_only=True)
class RateLimited:
    """Not accepted: the tenant spent its minute's `what`. Nothing was written."""

    what: Literal["requests", "tokens"]
    retry_after_ms: int


@dataclass(frozen=True, kw_only=True)
class Draining:
    """Not accepted: the queue serves what it has and takes nothing new. Nothing was written."""


@dataclass(frozen=True, kw_only=True)
class KeyReused:
    """Not accepted: the idempotency key belongs to a different request, job `id`."""

    id: str


#: What `submit` may answer.
Submitted = Accepted | QueueFull | TenantFull | RateLimited | Draining | KeyReused


# The four that a worker makes for every job are values too, and not frozen: that costs 0.3 us a
# field, a tenth of what a job costs the worker (docs/research/experiments.md, "a fifth off every
# job").


@dataclass(kw_only=True, unsafe_hash=True)
class Lease:
    """A worker's right to a job. `nonce` is random per claim: a stale worker is found out."""

    job_id: str
    nonce: str
    attempt: int


@dataclass(kw_only=True, unsafe_hash=True)
class Claim:
    """A job that was leased to the caller."""

    lease: Lease
    endpoint: EndpointPath
    body: bytes
    due_ms: float
    predicted_tokens: float
    deadline_ms: float
    tenant: str = "default"
    waited_ms: float | None = None  #: In the line, until this claim; None: it had run before.


class LeaseState(StrEnum):
    """What the store says to a worker that speaks about a job."""

    HELD = "held"  #: The lease stands (and was extended).
    CANCEL = "cancel"  #: The lease stands, but the answer is no longer wanted: abort and finish.
    LOST = "lost"  #: The job is no longer this worker's: abort, and say nothing more.


class OutcomeKind(StrEnum):
    """How a claim ended."""

    OK = "ok"  #: Answered.
    ERROR = "error"  #: Failed for good: the request's own fault.
    RETRY = "retry"  #: Failed, and may work next time; spends an attempt.
    RELEASE = "release"  #: Handed back, by a shutdown or a busy engine; spends no attempt.
    CANCELLED = "cancelled"  #: Aborted, because the store said CANCEL.


@dataclass(kw_only=True, unsafe_hash=True)
class Outcome:
    """How a claim ended, with what was measured.

    `output_tokens`, `prompt_tokens`: from the engine's `usage`; None if it gave none.
    `service_ms`: claim to end, on the worker's monotonic clock.
    `delay_ms`: with RETRY or RELEASE, not again before now + this.
    """

    kind: OutcomeKind
    output_tokens: int | None = None
    prompt_tokens: int | None = None
    service_ms: float | None = None
    error: JobError | None = None
    delay_ms: int = 0


@dataclass(kw_only=True, unsafe_hash=True)
class Ending:
    """How one claim ended, with the last `chunks` of its answer."""

    lease: Lease
    outcome: Outcome
    chunks: Sequence[bytes] = ()


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The answer to `finish`: `state` is None when the lease was lost, and nothing was written.

    Repeating a `finish` whose reply was lost, with the same nonce, gives the same state again.
    """

    state: JobState | None
    next_claims: list[Claim] = field(default_factory=list)


class EntryKind(StrEnum):
    """What one entry of a job's output stream is."""

    CHUNK = "chunk"  #: One piece of the engine's answer: an SSE event's JSON, or the whole body.
    ATTEMPT = "attempt"  #: A new attempt begins: forget all chunks of earlier attempts.
    END = "end"  #: The last entry, exactly one; `data` is a JSON object {state, error, usage}.


@dataclass(frozen=True, kw_only=True)
class OutputEntry:
    """One entry of a job's output stream; `id` is what `Last-Event-ID` resumes after.

    `starts`: the first piece of its claim. A reader that has pieces already then starts over, even
    without an ATTEMPT before it: over a failover, Redis may forget a claim whose pieces were read.
    """

    id: str
    kind: EntryKind
    attempt: int
    data: bytes
    starts: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job's record, as read."""

    id: str
    queue: str
    endpoint: EndpointPath
    job_class: str
    policy: str  #: The order that was in force when it came, for `explain`.
    state: JobState
    attempt: int  #: Claims so far.
    spent: int  #: Attempts that count towards `max_attempts`.
    max_attempts: int
    accepted_ms: float
    due_ms: float
    deadline_ms: float
    predicted_tokens: float
    predicted_ms: float
    slack_ms: float
    offset_ms: float = 0.0
    tenant: str = "default"
    weight: float = 1.0  #: Its tenant's, when it came.
    since_ms: float = 0.0  #: Since when it waits: its acceptance, plus its delay.
    fcfs_wait_ms: float | None = None  #: What it would have waited first come first served.
    prediction: Prediction | None = None  #: As the predictor said it.
    basis: Basis = UNKNOWN_BASIS
    started_ms: float | None = None
    first_output_ms: float | None = None
    finished_ms: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cancel_requested: bool = False
    worker: str | None = None
    error: JobError | None = None


@dataclass(frozen=True, kw_only=True)
class TickReport:
    """What one tick moved."""

    promoted: int = 0  #: scheduled -> queued
    returned: int = 0  #: leases that ran out, back in the line with their original due time
    failed: int = 0  #: leases that ran out on their last attempt
    expired: int = 0  #: deadlines passed
    cancelled: int = 0  #: leases that ran out on a job whose cancellation was requested


class Mode(StrEnum):
    """How a queue is run."""

    OPEN = "open"  #: Takes jobs and serves them.
    PAUSED = "paused"  #: Takes jobs and serves none; what runs, goes on.
    DRAINING = "draining"  #: Takes none and serves what it has.


@dataclass(frozen=True, kw_only=True)
class TenantLine:
    """What one tenant has in a queue. `virtual_time`: tokens served / weight, to compare."""

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
    active_policy: PolicyName = "sjf"  #: What is in force; `fcfs` also while sjf is suspended.
    fallback: bool = False  #: sjf is suspended, because its predictions were found useless.
    mean_wait_ms: float | None = None  #: Of all jobs so far, until their first start.
    mean_fcfs_wait_ms: float | None = None  #: What first come first served would have made of it.
    answers: list[Answer] = field(default_factory=list)  #: The last ones, newest first.
    judged_at: int = 0  #: `counters["succeeded"]` when the last verdict on the predictor was given.
    tenants: list[TenantLine] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class JobPage:
    """A part of a listing; `after` asks for the next part, None: this was the last."""

    jobs: list[Job]
    after: str | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """The jobs to show: next to be served first, then the running, then the last finished."""

    now_ms: float
    waiting: list[Job]
    running: list[Job]
    finished: list[Job]


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a waiting job stands: its tenant's jobs ahead of it, and the predicted tokens ahead.

    The tokens are exact up to 1,000 jobs ahead; behind those they are scaled by the mean. Where
    other tenants wait too, they include what those are served meanwhile, by the weights.
    """

    ahead: int
    tokens_ahead: float


@dataclass(frozen=True, kw_only=True)
class Queue:
    """A queue and its settings."""

    name: str
    settings: QueueSettings


JsonObject = dict[str, Any]


def predictor_tag(model_version: str) -> str:
    """A short name of a predictor's version, to tell its predictions from another's."""
    return f"{zlib.crc32(model_version.encode()):08x}"[:4]
