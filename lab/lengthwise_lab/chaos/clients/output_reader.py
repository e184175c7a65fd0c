"""A client that reads the output of a job as it is generated, with disconnects and resumes.

Called by job_clients.py.
"""

from __future__ import annotations

import asyncio
import random

import httpx
from httpx_sse import ServerSentEvent

from lengthwise_lab.chaos.checks.outputs import Entry, entry_text
from lengthwise_lab.chaos.clients.retrying_client import RETRY_FOR_S, RetryingClient
from lengthwise_lab.chaos.clients.workload import ChaosJob
from lengthwise_lab.chaos.history import History
from lengthwise_lab.server_sent_events import read_events


async def read_output(client: RetryingClient, history: History, job: ChaosJob, job_id: str) -> None:
    """Read a job's output to its end, with a random service for each connection."""
    rng = random.Random(f"read {job.ref}")  # noqa: S311 - must repeat
    entries: list[Entry] = []
    ended, connections = False, 0
    ends = asyncio.get_running_loop().time() + RETRY_FOR_S
    while not ended and asyncio.get_running_loop().time() < ends:
        connections += 1
        leave_after = rng.randrange(1, 12) if rng.random() < 0.5 else None
        ended = await _read_once(client, job, job_id, entries, leave_after)
        if not ended and leave_after is None:
            await asyncio.sleep(0.1)
    history.write(
        "read",
        "ok" if ended else "info",
        ref=job.ref,
        id=job_id,
        connections=connections,
        entries=entries,
    )


async def _read_once(
    client: RetryingClient,
    job: ChaosJob,
    job_id: str,
    entries: list[Entry],
    leave_after: int | None,
) -> bool:
    """Read from the last entry on; return whether the output ended."""
    headers = {"Last-Event-ID": entries[-1][0]} if entries else {}
    path = f"/v1/jobs/{job_id}/stream"
    before = len(entries)
    try:
        async with client.stream(job.tenant, "GET", path, headers=headers) as response:
            if response.status_code == httpx.codes.NO_CONTENT:
                return True
            if not response.is_success:
                await response.aread()
                client.record_internal_error(response)
                await asyncio.sleep(0.2)
                return False
            last_id = ""
            async for event in read_events(response):
                if event.id == last_id:
                    continue  # an event without an id is not an entry of the output
                last_id = event.id
                entries.append(_entry(event))
                if event.event == "end":
                    return True
                if leave_after is not None and len(entries) - before >= leave_after:
                    return False
    except httpx.TransportError:
        pass
    return False


def _entry(event: ServerSentEvent) -> Entry:
    kind = "chunk" if event.event == "message" else event.event
    return event.id, kind, entry_text(kind, event.data)
