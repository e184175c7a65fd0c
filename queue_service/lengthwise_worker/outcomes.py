"""Chooses the outcome of a job that the engine did not answer: fail, retry, or put back. Pure.

Called by job_run.py. The delays have full jitter, so that a thousand jobs that failed together do
not return together (Brooker, "Exponential backoff and jitter", AWS architecture blog, 2015).
"""

from __future__ import annotations

from enum import StrEnum
from http import HTTPStatus

from lengthwise_contract.jobs import JobError
from lengthwise_store.jobs import Outcome, OutcomeKind
from lengthwise_worker.errors import EngineError, EngineFailed, EngineRefused

#: Retry n waits a random time up to `base * 2^(n-1)`, ms, at most the cap.
RETRY_BASE_MS, RETRY_CAP_MS = 1_000, 60_000

#: A job goes back without spending an attempt only while it was claimed at most this often, so that
#: one that breaks every engine ends.
FREE_CLAIMS = 8

#: A job that gets a 404 goes back this often, though a probe succeeds: the engine may have been
#: restarted just now with the right model. A request for another model gets its 404 then.
ASKED_AGAIN = 2

#: Pause for a busy engine that names no time, ms, and the longest pause that it may ask for.
BUSY_BASE_MS, BUSY_CAP_MS = 500, 30_000


class Blame(StrEnum):
    """Whose fault it is that a call of the engine failed."""

    REQUEST = "request"  #: The engine refuses it; any other would, too.
    REPLICA = "replica"  #: The engine is in trouble; another one can answer the job.
    JOB = "job"  #: The engine is well, and this job alone failed.


def retry_delay_ms(attempt: int, *, chance: float) -> int:
    """Return how long a failed job waits before its next attempt, ms.

    Args:
        attempt: The attempt that failed, from 1.
        chance: A random number in [0, 1).
    """
    return int(chance * min(RETRY_CAP_MS, RETRY_BASE_MS * 2 ** min(attempt - 1, 16)))


def busy_delay_ms(retry_after_s: float | None, *, in_a_row: int, chance: float) -> int:
    """Return the pause for a busy engine, ms: its own request, or more, plus up to a half.

    Args:
        retry_after_s: The pause that the engine requested, s; None: none.
        in_a_row: How often it was busy before, without an answer in between.
        chance: A random number in [0, 1).
    """
    if retry_after_s is None:
        pause_ms: float = BUSY_BASE_MS * 2 ** min(in_a_row, 6)
    else:
        pause_ms = retry_after_s * 1000
    return int(min(BUSY_CAP_MS, max(pause_ms, BUSY_BASE_MS / 5)) * (1 + chance / 2))


def outcome_of(
    error: EngineError, blame: Blame, *, attempt: int, service_ms: float, chance: float
) -> Outcome:
    """Return the outcome of a claim whose engine call raised `error`.

    A job that goes back goes back at once: this worker claims nothing more for now, and another one
    may be free.

    Args:
        error: What the engine call raised.
        blame: Whose fault that is.
        attempt: This attempt, from 1.
        service_ms: From the claim until now, ms.
        chance: A random number in [0, 1).
    """
    worn = isinstance(error, EngineFailed) and attempt > FREE_CLAIMS
    if blame is Blame.REPLICA and not worn:
        return Outcome(kind=OutcomeKind.RELEASE, service_ms=service_ms)
    refused = isinstance(error, EngineRefused)
    if refused and error.status == HTTPStatus.NOT_FOUND and attempt <= ASKED_AGAIN:
        return Outcome(kind=OutcomeKind.RELEASE, service_ms=service_ms)
    return Outcome(
        kind=OutcomeKind.ERROR if refused else OutcomeKind.RETRY,
        service_ms=service_ms,
        error=JobError(
            code="engine_refused" if refused else "engine_failed",
            message=error.message,
            status=error.status,
            body=error.body,
        ),
        delay_ms=0 if refused else retry_delay_ms(attempt, chance=chance),
    )
