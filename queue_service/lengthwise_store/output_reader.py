"""Waits for a job's output on behalf of a client: over outages of Redis, while the client stays.

Called by the routes that answer from a job: the OpenAI ones and `/v1/jobs/{id}/stream`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from lengthwise_contract.jobs import JobError
from lengthwise_contract.states import TERMINAL, JobState
from lengthwise_store.errors import JobCancelled, JobEnded, JobExpired, JobFailed, StoreUnavailable
from lengthwise_store.jobs import EntryKind, Job, OutputEntry
from lengthwise_store.store import JobStore

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Pause before Redis is asked again while it is away, s.
OUTAGE_PAUSE_S = 0.25

#: How long a client that is already being answered is kept while Redis is away, s.
OUTAGE_LIMIT_S = 60.0


class ClientDisconnected(Exception):
    """The client closed the connection before it had its answer."""


class Drained(Exception):
    """The process is to stop, and the client can go on reading at another replica."""


Receive = Callable[[], Awaitable[Any]]


async def while_connected(
    receive: Receive, work: Coroutine[Any, Any, T], *, unless: asyncio.Event | None = None
) -> T:
    """Do `work`, but only as long as the client is there.

    Args:
        receive: The request's ASGI channel, its body already read.
        work: Cancelled when the client hangs up.
        unless: Likewise cancelled when this is set.

    Raises:
        ClientDisconnected: The client is gone.
        Drained: `unless` was set.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(receive))
    waits: set[asyncio.Future[Any]] = {task, gone}
    stop = None if unless is None else asyncio.ensure_future(unless.wait())
    if stop is not None:
        waits.add(stop)
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientDisconnected
        raise Drained
    finally:
        for future in waits:
            future.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def follow(
    store: JobStore,
    queue: str,
    job_id: str,
    *,
    after: str = "0-0",
    first_s: float,
    beat_s: float,
) -> AsyncGenerator[list[OutputEntry]]:
    """A job's output as it comes, in order, up to and with its END.

    Redis may go away and come back meanwhile. An END that was lost (an old record was trimmed or
    damaged) is made up from the job's record, so that no reader waits for ever. So is an ATTEMPT
    where a claim begins whose predecessor Redis forgot in a failover: its pieces were read, and
    those of two calls of the engine must not be mixed.

    Args:
        store: Where the job is.
        queue: Its queue.
        job_id: Its id.
        after: Only what stands behind this entry.
        first_s: An empty list is yielded when nothing came within this, s, ...
        beat_s: ... and then whenever nothing came for this long, s; during an outage more often.

    Raises:
        StoreUnavailable: Redis was away for longer than `OUTAGE_LIMIT_S`.
    """
    wait_s = first_s
    has_pieces = False if after == "0-0" else None  # None: whatever the entry `after` was
    away_since_s: float | None = None
    while True:
        entries: list[OutputEntry] = []
        try:
            entries = await store.wait_output(queue, job_id, after=after, timeout_s=wait_s)
            if not entries:
                yield []
                wait_s = beat_s
                entries = await _rest_of_ended(store, queue, job_id, after)
            if has_pieces is None and entries:
                has_pieces = entries[0].starts and not await _announces(store, queue, job_id, after)
            away_since_s = None
        except StoreUnavailable:
            entries = []
            now_s = time.monotonic()
            away_since_s = now_s if away_since_s is None else away_since_s
            if now_s - away_since_s > OUTAGE_LIMIT_S:
                raise
            yield []
            await asyncio.sleep(OUTAGE_PAUSE_S)
        if entries:
            told, has_pieces = _with_restarts(entries, after, has_pieces=bool(has_pieces))
            yield told
            if any(e.kind is EntryKind.END for e in entries):
                return
            after, wait_s = entries[-1].id, beat_s


async def _announces(store: JobStore, queue: str, job_id: str, entry_id: str) -> bool:
    """Whether the entry is an ATTEMPT. False too if there is none: Redis forgot a piece."""
    ms, _, sequence = entry_id.partition("-")
    number = (int(ms) << 64) + int(sequence or 0) - 1
    before = f"{number >> 64}-{number & (1 << 64) - 1}"
    found = await store.read_output(queue, job_id, after=before, limit=1)
    return [e.kind for e in found if e.id == entry_id] == [EntryKind.ATTEMPT]


def _with_restarts(
    entries: list[OutputEntry], after: str, *, has_pieces: bool
) -> tuple[list[OutputEntry], bool]:
    """The entries behind `after`, an ATTEMPT before each claim that begins unannounced.

    It has the id of the entry before it: who breaks off there and resumes is told once more.
    And whether the reader has pieces of the claim at the end of it.
    """
    told: list[OutputEntry] = []
    for entry in entries:
        if entry.starts and has_pieces:
            told.append(
                OutputEntry(id=after, kind=EntryKind.ATTEMPT, attempt=entry.attempt, data=b"")
            )
        told.append(entry)
        has_pieces = entry.kind is not EntryKind.ATTEMPT
        after = entry.id
    return told, has_pieces


async def _rest_of_ended(store: JobStore, queue: str, job_id: str, after: str) -> list[OutputEntry]:
    """What is left to read of a job that has ended; nothing if it has not."""
    job = await store.get(queue, job_id)
    if job is not None and job.state not in TERMINAL:
        return []
    rest = await store.read_output(queue, job_id, after=after)
    if rest:
        return rest
    log.warning("output without an end", extra={"job_id": job_id, "queue": queue})
    return [_made_up_end(job, after)]


def _made_up_end(job: Job | None, after: str) -> OutputEntry:
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
        }
    attempt = 0 if job is None else job.attempt
    return OutputEntry(
        id=after, kind=EntryKind.END, attempt=attempt, data=json.dumps(data).encode()
    )


@dataclass(frozen=True, kw_only=True)
class End:
    """What an END entry says."""

    state: JobState
    error: JobError | None
    prompt_tokens: int | None
    output_tokens: int | None

    def problem(self, job_id: str) -> JobEnded | None:
        """Why there is no answer; None: there is."""
        said = self.error
        look = f"GET /v1/jobs/{job_id} shows it."
        match self.state:
            case JobState.SUCCEEDED:
                return None
            case JobState.CANCELLED:
                return JobCancelled(f"The job was cancelled. {look}", job_id=job_id)
            case JobState.EXPIRED:
                return JobExpired(
                    f"The job was not finished before its deadline. {look} Send it again when "
                    "the queue is shorter, or raise the queue's request_ttl_ms.",
                    job_id=job_id,
                )
        if said is None:
            return JobFailed(f"The job failed, and gave no reason. {look}", job_id=job_id)
        return JobFailed(
            said.message,
            job_id=job_id,
            code=said.code,
            status=said.status,
            engine_body=said.body,
        )


def read_end(entry: OutputEntry) -> End:
    """The END entry's content; a malformed one is a failure that says so."""
    try:
        data = json.loads(entry.data)
        error = data.get("error")
        return End(
            state=JobState(data["state"]),
            error=None if error is None else JobError.model_validate(error),
            prompt_tokens=data.get("prompt_tokens"),
            output_tokens=data.get("output_tokens"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
        log.warning("malformed end of an output stream", extra={"entry": entry.id})
        return End(
            state=JobState.FAILED,
            error=JobError(
                code="malformed_record", message="The end of the job's output cannot be read."
            ),
            prompt_tokens=None,
            output_tokens=None,
        )
