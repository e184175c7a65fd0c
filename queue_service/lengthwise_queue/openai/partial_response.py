"""Reads the answer of a job, finished or not, as one OpenAI response. Called by routes of jobs."""

from __future__ import annotations

from typing import Any

from lengthwise_queue.openai.assemble import assemble, last_attempt
from lengthwise_queue.openai.registry import endpoint_at
from lengthwise_store.jobs import Job, OutputEntry
from lengthwise_store.store import JobStore

#: Entries of a job's output that one read returns.
_PAGE = 1000


async def partial_response(store: JobStore, job: Job) -> dict[str, Any] | None:
    """Assemble the chunks of the job's last attempt; None: there are none yet.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    entries: list[OutputEntry] = []
    after = "0-0"
    while True:
        page = await store.read_output(job.queue, job.id, after=after, limit=_PAGE)
        entries += page
        if len(page) < _PAGE:
            break
        after = page[-1].id
    return assemble(
        endpoint_at(job.endpoint),
        last_attempt(entries),
        prompt_tokens=job.prompt_tokens,
        output_tokens=job.output_tokens,
        usage_details=job.usage_details,
    )
