"""Read every job and its output from Redis at the end of a run, and old ones before they expire.

It uses the product's own store and not HTTP, because twenty thousand jobs and their outputs would
take minutes over HTTP. Called by run.py, which requests some of the jobs from the service, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from lengthwise_lab.chaos.checks.outputs import Entry, entry_text
from lengthwise_lab.chaos.history import History
from lengthwise_lab.chaos.system.processes import QUEUE
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import EntryKind, Job, OutputEntry
from lengthwise_store.keys import QueueKeys
from lengthwise_store.store import JobStore

#: Jobs read at once.
_AT_ONCE = 16


async def stored_ids(client: Any) -> list[str]:
    """Return the ids of all jobs in Redis. `client` is connected to the primary."""
    prefix = QueueKeys(QUEUE).job("")
    pattern = prefix.replace("{", "\\{") + "*"
    found = [key async for key in client.scan_iter(match=pattern, count=1000)]
    return sorted(key.decode().removeprefix(prefix) for key in found)


async def record_jobs(
    url: str, ids: Iterable[str], history: History, *, ended_before_ms: float | None = None
) -> set[str]:
    """Record every job (`final`) and its whole output (`output`).

    Args:
        url: URL of the primary.
        ids: The jobs.
        history: Gets the events.
        ended_before_ms: Only jobs that ended before this time are recorded, ms since the epoch by
            the clock of Redis; None: all.

    Returns:
        The ids of the recorded jobs.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    store = JobStore(url)
    waiting, recorded = iter(ids), set()

    async def reader() -> None:
        for job_id in waiting:
            job = await store.get(QUEUE, job_id)
            if ended_before_ms is not None and not _ended_before(job, ended_before_ms):
                continue
            if job is None:
                history.write("final", "ok", id=job_id, found=False)
                recorded.add(job_id)
                continue
            entries = await _whole_output(store, job_id)
            history.write("final", "ok", id=job_id, found=True, **_fields(job))
            history.write("output", "ok", id=job_id, entries=[_entry(e) for e in entries])
            recorded.add(job_id)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(reader())
    except* StoreUnavailable as several:
        raise several.exceptions[0] from several
    finally:
        await store.aclose()
    return recorded


def _ended_before(job: Job | None, time_ms: float) -> bool:
    return job is not None and job.finished_ms is not None and job.finished_ms < time_ms


async def _whole_output(store: JobStore, job_id: str) -> list[OutputEntry]:
    entries = await store.read_output(QUEUE, job_id)
    while entries and entries[-1].kind is not EntryKind.END:
        more = await store.read_output(QUEUE, job_id, after=entries[-1].id)
        if not more:
            break
        entries += more
    return entries


def _fields(job: Job) -> dict[str, Any]:
    return {
        "state": job.state,
        "tenant": job.tenant,
        "attempt": job.attempt,
        "accepted_ms": job.accepted_ms,
        "started_ms": job.started_ms,
        "finished_ms": job.finished_ms,
        "due_ms": job.due_ms,
        "error": None if job.error is None else job.error.code,
    }


def _entry(entry: OutputEntry) -> Entry:
    if entry.kind is EntryKind.ATTEMPT:
        return entry.id, entry.kind, str(entry.attempt)
    return entry.id, entry.kind, entry_text(entry.kind, entry.data)
