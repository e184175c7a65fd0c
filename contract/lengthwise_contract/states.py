"""The life of a job: its states, its events, and `TRANSITIONS`, the table of legal moves.

Every event is one Lua script (`queue_service/lengthwise_store/lua/<event>.lua`). Its header repeats
its rows of the table, and a test compares the two. docs/concepts/life-of-a-job.md prints the table
as a diagram.
"""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """The state of a job."""

    SCHEDULED = "scheduled"  #: Accepted, but waits for its delay, or for its retry.
    QUEUED = "queued"  #: Waits to be served; the job with the smallest due time is next.
    RUNNING = "running"  #: Leased to a worker; goes back to the queue when the lease expires.
    SUCCEEDED = "succeeded"  #: Answered. Exactly one result was accepted.
    FAILED = "failed"  #: Is not tried again; a dead letter, with the reason.
    CANCELLED = "cancelled"  #: Withdrawn by its owner, or its client has disconnected.
    EXPIRED = "expired"  #: Did not finish before its deadline.


#: The final states. Only a failed job can leave its state, by `redrive`.
TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})


class Event(StrEnum):
    """The events of a job. Each event is one Lua script and one `JobStore` method."""

    SUBMIT = "submit"  #: A client submits a job.
    CLAIM = "claim"  #: A worker claims the next jobs, on a lease.
    BEAT = "beat"  #: A worker extends its leases, and learns which were cancelled or lost.
    EMIT = "emit"  #: A worker appends output.
    FINISH = "finish"  #: A worker ends its claim: done, failed, to be retried, or released.
    CANCEL = "cancel"  #: The owner cancels the job.
    REDRIVE = "redrive"  #: An admin puts a dead letter back into the queue.
    REPRICE = "reprice"  #: A waiting job gets another predicted length.
    TICK = "tick"  #: Time passes: leases and delays end, deadlines pass.


_S = JobState

#: (state, event) -> the states that may follow. `None` is a job that does not exist yet.
TRANSITIONS: dict[tuple[JobState | None, Event], tuple[JobState, ...]] = {
    (None, Event.SUBMIT): (_S.QUEUED, _S.SCHEDULED),
    (_S.QUEUED, Event.CLAIM): (_S.RUNNING, _S.EXPIRED),
    (_S.RUNNING, Event.BEAT): (_S.RUNNING,),
    (_S.RUNNING, Event.EMIT): (_S.RUNNING,),
    (_S.RUNNING, Event.FINISH): (
        _S.SUCCEEDED,
        _S.FAILED,
        _S.QUEUED,
        _S.SCHEDULED,
        _S.CANCELLED,
        _S.EXPIRED,
    ),
    (_S.SCHEDULED, Event.CANCEL): (_S.CANCELLED,),
    (_S.QUEUED, Event.CANCEL): (_S.CANCELLED,),
    (_S.RUNNING, Event.CANCEL): (_S.RUNNING,),
    (_S.FAILED, Event.REDRIVE): (_S.QUEUED,),
    (_S.QUEUED, Event.REPRICE): (_S.QUEUED,),
    (_S.SCHEDULED, Event.REPRICE): (_S.SCHEDULED,),
    (_S.SCHEDULED, Event.TICK): (_S.QUEUED, _S.EXPIRED),
    (_S.QUEUED, Event.TICK): (_S.EXPIRED,),
    (_S.RUNNING, Event.TICK): (_S.RUNNING, _S.QUEUED, _S.FAILED, _S.CANCELLED, _S.EXPIRED),
}


def as_mermaid() -> str:
    """Render the table as a Mermaid state diagram, one line for each move."""
    lines = ["stateDiagram-v2"]
    for (source, event), targets in TRANSITIONS.items():
        lines += [f"    {source or '[*]'} --> {target} : {event}" for target in targets]
    lines += [f"    {state} --> [*]" for state in JobState if state in TERMINAL]
    return "\n".join(lines)
