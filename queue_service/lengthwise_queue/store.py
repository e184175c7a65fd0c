"""The store of jobs: one method per event, one Lua script per method, Redis the only truth.

`JobStore` is the seam; `RedisJobStore` in redis_store.py is the implementation. Called by the
HTTP routes (submit, cancel, reads) and by the worker (claim, beat, emit, finish, tick).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lengthwise_contract.api import Prediction, QueueSettings, WorkerView
from lengthwise_contract.states import JobState
from lengthwise_queue.jobs import (
    UNKNOWN_BASIS,
    Basis,
    Claim,
    Ending,
    Finished,
    Job,
    JobPage,
    Lease,
    LeaseState,
    Line,
    Mode,
    NewJob,
    Outcome,
    OutputEntry,
    Position,
    Queue,
    QueueStats,
    Submitted,
    TickReport,
)


class JobStore(Protocol):
    """Every queue of one Redis. Methods raise `StoreUnavailable` when Redis does not answer."""

    #: Of each primary at the last `check`: used memory and its limit (0: none), bytes.
    memory: Sequence[tuple[int, int]]

    # --- events, one Lua script each

    async def submit(self, queue: str, job: NewJob) -> Submitted:
        """Hand a job in. Repeating it with the same id or idempotency key is one job."""

    async def claim(self, queue: str, *, worker_id: str, count: int) -> list[Claim]:
        """Take up to `count` of the next jobs, each on a lease of `lease_ms`; never blocks."""

    async def beat(
        self, queue: str, *, worker: WorkerView, leases: Sequence[Lease]
    ) -> dict[str, LeaseState]:
        """Extend all leases of a worker in one call; job id -> how it stands now."""

    async def emit(self, queue: str, lease: Lease, chunks: Sequence[bytes]) -> LeaseState:
        """Append pieces of the answer to the job's stream, in order; extends the lease."""

    async def finish(
        self,
        queue: str,
        lease: Lease,
        outcome: Outcome,
        *,
        chunks: Sequence[bytes] = (),
        worker_id: str,
        claim_next: int = 0,
    ) -> Finished:
        """End a claim, appending the last `chunks` first, and take up to `claim_next` more jobs."""

    async def finish_all(
        self, queue: str, endings: Sequence[Ending], *, worker_id: str, claim_next: int = 0
    ) -> tuple[list[JobState | None], list[Claim]]:
        """`finish` for several claims in one round trip, and one claim of `claim_next` more jobs.

        Their states in the same order. The ends are one atomic step, the claim behind them another.
        """

    async def cancel(self, queue: str, job_id: str) -> JobState | None:
        """Withdraw a job; its state afterwards (what runs hears it soon), None: unknown."""

    async def redrive(self, queue: str, job_id: str) -> JobState | None:
        """Give a failed job a new life, with all its attempts; its state afterwards.

        None: unknown. FAILED: it cannot be served again, its request is gone or unreadable.
        """

    async def reprice(
        self,
        queue: str,
        job_id: str,
        *,
        slack_ms: float,
        predicted_tokens: float,
        predicted_ms: float,
        prediction: Prediction,
        basis: Basis = UNKNOWN_BASIS,
    ) -> float | None:
        """Give a waiting job another price; its new due time, or None: it no longer waits."""

    async def tick(self, queue: str) -> TickReport | None:
        """Let time pass; None when another process did so within the last tick interval."""

    async def stats(self, queue: str) -> QueueStats:
        """The counters at one instant."""

    # --- waiting

    async def wait_for_work(self, queue: str, timeout_s: float) -> bool:
        """Block until a job may be waiting, or the time is over.

        Holds a connection of its own per queue; one waiter per queue and store object.
        """

    async def cancellations(self, queue: str, timeout_s: float) -> list[str]:
        """Ids of jobs whose cancellation was requested: a hint, `beat` is the truth.

        Holds a connection of its own; waits up to `timeout_s` for the first.
        """

    # --- reads

    async def get(self, queue: str, job_id: str) -> Job | None:
        """One job's record."""

    async def states(self, queue: str, job_ids: Sequence[str]) -> list[JobState | None]:
        """The states of many jobs, in their order; None: there is no such job."""

    async def find(self, job_id: str, *, tenant: str | None = None) -> Job | None:
        """One job's record, whichever queue it is in; if it is this tenant's, or anybody's."""

    async def position(self, queue: str, job_id: str) -> Position | None:
        """Where a waiting job stands; None: it is not waiting."""

    async def waiting_lengths(self, queue: str, sample: int = 1000) -> list[float]:
        """Predicted tokens of up to `sample` waiting jobs, chosen at random."""

    async def line(self, queue: str, limit: int, *, tenant: str | None = None) -> Line:
        """The line as it stands, at most `limit` jobs of each kind; of one tenant, or of all."""

    async def jobs(
        self,
        queue: str,
        tenant: str,
        *,
        state: JobState | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> JobPage:
        """A tenant's jobs: running, queued by due time, scheduled, then ended, the newest first.

        Raises ValueError when `after` is not a cursor of this listing.
        """

    async def dead(
        self, queue: str, tenants: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> JobPage:
        """The dead letters of these tenants, one after the other, the newest of each first.

        Raises ValueError when `after` is not a cursor of this listing.
        """

    async def read_output(
        self, queue: str, job_id: str, *, after: str = "0-0", limit: int = 1000
    ) -> list[OutputEntry]:
        """What stands in a job's stream behind entry `after`; never blocks."""

    async def wait_output(
        self, queue: str, job_id: str, *, after: str = "0-0", timeout_s: float
    ) -> list[OutputEntry]:
        """Like `read_output`, but waits up to `timeout_s` for the first entry.

        All waits of a store object share one blocking connection per queue.
        """

    # --- queues

    async def queues(self) -> list[Queue]:
        """All queues with their settings, by name."""

    async def queue(self, name: str) -> Queue | None:
        """One queue with its settings; None: there is none of that name."""

    async def put_queue(self, name: str, settings: QueueSettings) -> None:
        """Create a queue or change its settings. With another policy the line is put in its order.

        Waiting jobs keep the price that they have: a new k, or new classes, are for new jobs.
        """

    async def set_mode(self, queue: str, mode: Mode) -> None:
        """Open, pause or drain a queue; in force for the next claim and the next submit."""

    async def set_fallback(self, queue: str, *, on: bool, judged_at: int = 0) -> None:
        """Suspend the policy `sjf`: serve in order of acceptance; or take it up again.

        `judged_at`: how many jobs had succeeded, so that the next verdict rests on later ones.
        """

    # --- what a queue may keep for training, see `QueueSettings.record_rows`

    async def record(self, queue: str, rows: Sequence[bytes], *, most: int, ttl_ms: int) -> None:
        """Keep rows, and let go of those beyond `most` (about) and of those older than `ttl_ms`."""

    async def recorded(
        self, queue: str, *, after: str = "0-0", limit: int = 500
    ) -> list[tuple[str, bytes]]:
        """Rows of the record behind a cursor, the oldest first, each with its cursor."""

    async def forget_record(self, queue: str) -> None:
        """Delete the record."""

    async def check(self) -> None:
        """Raise `StoreUnavailable` unless Redis answers and is set up as our promises need."""

    async def aclose(self) -> None:
        """Close every connection."""
