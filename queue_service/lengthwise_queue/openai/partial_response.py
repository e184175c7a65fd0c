"""A job's answer as far as it is there, as one OpenAI response. Called by routes that show jobs."""

from __future__ import annotations

from typing import Any

from lengthwise_queue.openai import assemble as responses
from lengthwise_store.jobs import Job, OutputEntry
from lengthwise_store.store import JobStore

#: Entries of a job's output that are read at once.
_PAGE = 1000


async def partial_response(store: JobStore, job: Job) -> dict[str, Any] | None:
    """The last attempt's chunks put together; None: there is nothing yet.

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
    return responses.assemble(
        job.endpoint,
        responses.last_attempt(entries),
        prompt_tokens=job.prompt_tokens,
        output_tokens=job.output_tokens,
    )
