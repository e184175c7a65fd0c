"""The life of a job: states, events, and `TRANSITIONS`, the one table of legal moves.

Every event is one Lua script (`queue_service/lengthwise_queue/lua/<event>.lua`), whose header
repeats its rows of the table; a test holds the two equal, and docs/concepts/life-of-a-job.md
prints the picture.
"""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """Where a job is in its life."""

    SCHEDULED = "scheduled"  #: Accepted, not to be served before a given time (delay or retry).
    QUEUED = "queued"  #: Waiting in the line; the job with the smallest due time is next.
    RUNNING = "running"  #: Leased to a worker; goes back to the line when the lease runs out.
    SUCCEEDED = "succeeded"  #: Answered. Exactly one result was accepted.
    FAILED = "failed"  #: Will not be tried again; in the dead letters with its reason.
    CANCELLED = "cancelled"  #: Its owner, or the client that hung up, no longer wants it.
    EXPIRED = "expired"  #: Not finished before its deadline.


#: Ended. Only a failed job can be given a new life, by hand (`redrive`).
TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})


class Event(StrEnum):
    """What can happen to a job. Each is one Lua script and one `JobStore` method of its name."""

    SUBMIT = "submit"  #: A client hands a job in.
    CLAIM = "claim"  #: A worker takes the next jobs, on a lease.
    BEAT = "beat"  #: A worker extends its leases and hears what was cancelled or lost.
    EMIT = "emit"  #: A worker appends output.
    FINISH = "finish"  #: A worker ends its claim: done, failed, to be retried, or handed back.
    CANCEL = "cancel"  #: The owner withdraws the job.
    REDRIVE = "redrive"  #: An operator gives a dead letter a new life.
    REPRICE = "reprice"  #: A waiting job gets another predicted length.
    TICK = "tick"  #: Time passes: leases end, delays end, deadlines pass.


_S = JobState

#: (state, event) -> the states it may lead to. `None` is a job that does not exist yet.
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
    """The table as a Mermaid state diagram, one line a move."""
    lines = ["stateDiagram-v2"]
    for (source, event), targets in TRANSITIONS.items():
        lines += [f"    {source or '[*]'} --> {target} : {event}" for target in targets]
    lines += [f"    {state} --> [*]" for state in JobState if state in TERMINAL]
    return "\n".join(lines)
