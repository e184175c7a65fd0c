"""Reads a job's output for a client, also across outages of Redis.

Called by the routes that answer from a job: the OpenAI endpoints and `/v1/jobs/{id}/stream`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from lengthwise_contract.jobs import JobError
from lengthwise_contract.states import TERMINAL, JobState
from lengthwise_store.errors import JobCancelled, JobEnded, JobExpired, JobFailed, StoreUnavailable
from lengthwise_store.jobs import EntryKind, Job, OutputEntry
from lengthwise_store.store import JobStore

log = logging.getLogger(__name__)

#: Pause before Redis is asked again during an outage, s.
OUTAGE_PAUSE_S = 0.25

#: Longest outage of Redis that a client with an open answer waits through, s.
OUTAGE_LIMIT_S = 60.0


async def stream_output(
    store: JobStore,
    queue: str,
    job_id: str,
    *,
    after: str = "0-0",
    first_s: float,
    beat_s: float,
) -> AsyncGenerator[list[OutputEntry]]:
    """Yield a job's output as it arrives, in order, up to and including its END.

    Redis may be down in between. If the END was lost (an old record was trimmed or damaged), it is
    made from the job's record, so that no reader waits for ever. An ATTEMPT is made where a claim
    begins after one that Redis forgot in a failover: the reader has its pieces, and the pieces of
    two calls of the engine must not be mixed.

    Args:
        store: The store that has the job.
        queue: Its queue.
        job_id: Its id.
        after: Only entries behind this one.
        first_s: Yield an empty list when nothing arrived within this time, s, ...
        beat_s: ... and then whenever nothing arrived for this long, s; more often in an outage.

    Raises:
        StoreUnavailable: Redis was down for longer than `OUTAGE_LIMIT_S`.
    """
    wait_s = first_s
    has_pieces = False if after == "0-0" else None  # None: unknown, it depends on the entry `after`
    outage_since_s: float | None = None
    while True:
        entries: list[OutputEntry] = []
        try:
            entries = await store.wait_output(queue, job_id, after=after, timeout_s=wait_s)
            if not entries:
                yield []
                wait_s = beat_s
                entries = await _rest_of_ended(store, queue, job_id, after)
            if has_pieces is None and entries:
                has_pieces = entries[0].starts and not await _is_attempt(
                    store, queue, job_id, after
                )
            outage_since_s = None
        except StoreUnavailable:
            entries = []
            now_s = time.monotonic()
            outage_since_s = now_s if outage_since_s is None else outage_since_s
            if now_s - outage_since_s > OUTAGE_LIMIT_S:
                raise
            yield []
            await asyncio.sleep(OUTAGE_PAUSE_S)
        if entries:
            complete, has_pieces = _with_restarts(entries, after, has_pieces=bool(has_pieces))
            yield complete
            if any(e.kind is EntryKind.END for e in entries):
                return
            after, wait_s = entries[-1].id, beat_s


async def _is_attempt(store: JobStore, queue: str, job_id: str, entry_id: str) -> bool:
    """Whether the entry is an ATTEMPT. False if it does not exist: Redis lost it."""
    ms, _, sequence = entry_id.partition("-")
    number = (int(ms) << 64) + int(sequence or 0) - 1
    before = f"{number >> 64}-{number & (1 << 64) - 1}"
    found = await store.read_output(queue, job_id, after=before, limit=1)
    return [e.kind for e in found if e.id == entry_id] == [EntryKind.ATTEMPT]


def _with_restarts(
    entries: list[OutputEntry], after: str, *, has_pieces: bool
) -> tuple[list[OutputEntry], bool]:
    """Insert an ATTEMPT before each claim that begins without one.

    The ATTEMPT has the id of the entry before it, so that a reader who stops there and resumes gets
    it again.

    Returns:
        The entries; and whether the reader then has pieces of the last claim.
    """
    complete: list[OutputEntry] = []
    for entry in entries:
        if entry.starts and has_pieces:
            complete.append(
                OutputEntry(id=after, kind=EntryKind.ATTEMPT, attempt=entry.attempt, data=b"")
            )
        complete.append(entry)
        has_pieces = entry.kind is not EntryKind.ATTEMPT
        after = entry.id
    return complete, has_pieces


async def _rest_of_ended(store: JobStore, queue: str, job_id: str, after: str) -> list[OutputEntry]:
    """Return the rest of the output of a job that has ended; nothing if it has not."""
    job = await store.get(queue, job_id)
    if job is not None and job.state not in TERMINAL:
        return []
    rest = await store.read_output(queue, job_id, after=after)
    if rest:
        return rest
    log.warning("output without an end", extra={"job_id": job_id, "queue": queue})
    return [_end_from_record(job, after)]


def _end_from_record(job: Job | None, after: str) -> OutputEntry:
    if job is None:
        error = JobError(
            code="job_gone", message="The job's record is gone: it was deleted, or kept too long."
        )
        data: dict[str, Any] = {"state": JobState.FAILED, "error": error.model_dump()}
    else:
        data = {
            "state": job.state,
            "error": None if job.error is None else job.error.model_dump(),
            "prompt_tokens": job.prompt_tokens,
            "output_tokens": job.output_tokens,
            "usage_details": job.usage_details,
        }
    attempt = 0 if job is None else job.attempt
    return OutputEntry(
        id=after, kind=EntryKind.END, attempt=attempt, data=json.dumps(data).encode()
    )


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """The content of an END entry."""

    state: JobState
    error: JobError | None
    prompt_tokens: int | None
    output_tokens: int | None
    usage_details: dict[str, Any] | None = None

    def problem(self, job_id: str) -> JobEnded | None:
        """Return the error that explains why there is no answer; None: there is one."""
        error = self.error
        details = f"GET /v1/jobs/{job_id} shows it."
        match self.state:
            case JobState.SUCCEEDED:
                return None
            case JobState.CANCELLED:
                return JobCancelled(f"The job was cancelled. {details}", job_id=job_id)
            case JobState.EXPIRED:
                return JobExpired(
                    f"The job was not finished before its deadline. {details} Send it again when "
                    "the queue is shorter, or raise the queue's request_ttl_ms.",
                    job_id=job_id,
                )
        if error is None:
            return JobFailed(f"The job failed, and gave no reason. {details}", job_id=job_id)
        return JobFailed(
            error.message,
            job_id=job_id,
            code=error.code,
            status=error.status,
            engine_body=error.body,
        )


def read_end(entry: OutputEntry) -> JobEnd:
    """Read an END entry; a malformed one is returned as a failure with its own code."""
    try:
        data = json.loads(entry.data)
        error = data.get("error")
        return JobEnd(
            state=JobState(data["state"]),
            error=None if error is None else JobError.model_validate(error),
            prompt_tokens=data.get("prompt_tokens"),
            output_tokens=data.get("output_tokens"),
            usage_details=data.get("usage_details"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
        log.warning("malformed end of an output stream", extra={"entry": entry.id})
        return JobEnd(
            state=JobState.FAILED,
            error=JobError(
                code="malformed_record", message="The end of the job's output cannot be read."
            ),
            prompt_tokens=None,
            output_tokens=None,
        )
