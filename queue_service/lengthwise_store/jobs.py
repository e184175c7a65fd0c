"""Jobs as they enter and leave the store: submit, claim, outcome, output, record. Values only.

All times are ms since the epoch by the Redis server's clock, as floats with us in the fraction.
queues.py has the values that describe a whole queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from lengthwise_contract.jobs import EndpointPath, JobError
from lengthwise_contract.prediction import Prediction
from lengthwise_contract.states import JobState
from lengthwise_store.prediction_record import UNKNOWN_BASIS, Basis


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job as the queue service submits it.

    `id` is a UUIDv7: fixed width and time-ordered, so that equal due times leave in submit order.
    """

    id: str
    endpoint: EndpointPath
    body: bytes  #: The engine's request body, JSON, as the client sent it.
    job_class: str
    slack_ms: float  #: due = accepted + this under `sjf`; from `policy.slack_ms`.
    offset_ms: float = 0.0  #: due = accepted + this under `fcfs` and `shadow`: the class alone.
    predicted_tokens: float
    predicted_ms: float
    prediction: Prediction | None  #: As the predictor returned it.
    max_attempts: int
    delay_ms: int  #: Not served before accepted + this.
    ttl_ms: int  #: Expires unless finished by accepted + `delay_ms` + this.
    max_depth: int  #: Refused when this many are waiting or scheduled.
    idempotency_key: str | None = None  #: Of its tenant: two tenants may use the same.
    request_id: str = ""  #: Of the request that submitted it; without blanks.
    basis: Basis = UNKNOWN_BASIS
    submission: bytes = b""  #: What the queue learns from when it is answered; b"": nothing.
    fingerprint: str = ""  #: Of the request; tells a repeated request from a reused key.
    tenant: str = "default"
    tenant_weight: float = 1.0  #: Of two busy tenants, 2.0 gets twice the tokens of 1.0; > 0.
    tenant_max_depth: int | None = None  #: Refused when the tenant has this many; None: no cap.
    requests_per_minute: int | None = None  #: The tenant's; a bucket one minute deep.
    tokens_per_minute: int | None = None  #: The tenant's, of output; corrected at the end.


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The job is in the queue. `duplicate`: it was there before, under the same idempotency key."""

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
    """Not accepted: the tenant used up its `what` of this minute. Nothing was written."""

    what: Literal["requests", "tokens"]
    retry_after_ms: int


@dataclass(frozen=True, kw_only=True)
class Draining:
    """Not accepted: the queue serves what it has and accepts nothing new. Nothing was written."""


@dataclass(frozen=True, kw_only=True)
class KeyReused:
    """Not accepted: the idempotency key belongs to a different request, job `id`."""

    id: str


#: What `submit` may return.
Submitted = Accepted | QueueFull | TenantFull | RateLimited | Draining | KeyReused


# A worker makes the next four for every job. They are values too, but not frozen: a frozen field
# costs 0.3 us, together a tenth of a job's cost in the worker (docs/research/experiments.md, "a
# fifth off every job").


@dataclass(kw_only=True, unsafe_hash=True)
class Lease:
    """A worker's right to a job. `nonce` is random per claim and shows that a worker is stale."""

    job_id: str
    nonce: str
    attempt: int


@dataclass(kw_only=True, unsafe_hash=True)
class Claim:
    """A job that is leased to the caller."""

    lease: Lease
    endpoint: EndpointPath
    body: bytes
    due_ms: float
    predicted_tokens: float
    deadline_ms: float
    tenant: str = "default"
    waited_ms: float | None = None  #: In the queue, until this claim; None: it ran before.
    request_id: str = ""  #: Of the request that submitted it; "": none did.


class LeaseState(StrEnum):
    """The state of a lease, as the store returns it to the worker that names it."""

    HELD = "held"  #: The lease is valid (and was extended).
    CANCEL = "cancel"  #: The lease is valid, but no client wants the answer: abort and finish.
    LOST = "lost"  #: The job is no longer this worker's: abort, and send nothing more.


class OutcomeKind(StrEnum):
    """The kinds of outcomes of a claim."""

    OK = "ok"  #: Answered.
    ERROR = "error"  #: Failed for good: the request itself is at fault.
    RETRY = "retry"  #: Failed, and may work next time; uses up an attempt.
    RELEASE = "release"  #: Put back, by a shutdown or a busy engine; uses up no attempt.
    CANCELLED = "cancelled"  #: Aborted, because the store returned CANCEL.


@dataclass(kw_only=True, unsafe_hash=True)
class Outcome:
    """The outcome of a claim, with the measurements.

    `output_tokens`, `prompt_tokens`: from the engine's `usage`; None if it gave none.
    `usage_details`: what else its `usage` has, a JSON object.
    `service_ms`: from claim to end, on the worker's monotonic clock.
    `delay_ms`: with RETRY or RELEASE, not served again before now + this.
    """

    kind: OutcomeKind
    output_tokens: int | None = None
    prompt_tokens: int | None = None
    service_ms: float | None = None
    error: JobError | None = None
    delay_ms: int = 0
    usage_details: str | None = None


@dataclass(kw_only=True, unsafe_hash=True)
class Completion:
    """The end of one claim: its outcome, with the last `chunks` of its answer."""

    lease: Lease
    outcome: Outcome
    chunks: Sequence[bytes] = ()


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The result of `finish`. `state` is None when the lease was lost and nothing was written.

    A `finish` that is repeated with the same nonce, because its reply was lost, returns the same
    state again.
    """

    state: JobState | None
    next_claims: list[Claim] = field(default_factory=list)


class EntryKind(StrEnum):
    """The kind of one entry of a job's output stream."""

    CHUNK = "chunk"  #: One piece of the engine's answer: an SSE event's JSON, or the whole body.
    ATTEMPT = "attempt"  #: A new attempt begins: forget all chunks of earlier attempts.
    END = "end"  #: The last entry, exactly one; `data` is a JSON object {state, error, usage}.


@dataclass(frozen=True, kw_only=True)
class OutputEntry:
    """One entry of a job's output stream; `Last-Event-ID: id` resumes behind it.

    `starts`: the first piece of its claim. A reader that has pieces already then starts over, even
    without an ATTEMPT before it: in a failover, Redis may forget a claim whose pieces were read.
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
    policy: str  #: The policy that was in force when it was accepted, for `explain`.
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
    weight: float = 1.0  #: Its tenant's, when it was accepted.
    request_id: str = ""  #: Of the request that submitted it; "": none did.
    since_ms: float = 0.0  #: Since when it waits: its acceptance, plus its delay.
    fcfs_wait_ms: float | None = None  #: How long it would have waited first come first served.
    prediction: Prediction | None = None  #: As the predictor returned it.
    basis: Basis = UNKNOWN_BASIS
    started_ms: float | None = None
    first_output_ms: float | None = None
    finished_ms: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    usage_details: dict[str, Any] | None = None  #: What else the engine's `usage` has.
    cancel_requested: bool = False
    worker: str | None = None
    error: JobError | None = None
