"""Lists a tenant's jobs page by page, over one queue or all of them. Called by `GET /v1/jobs`."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from lengthwise_contract.states import JobState
from lengthwise_queue.errors import BadRequest
from lengthwise_store.jobs import Job
from lengthwise_store.queues import JobPage
from lengthwise_store.store import JobStore


async def list_jobs(
    store: JobStore,
    queues: Sequence[str],
    tenant: str,
    *,
    state: JobState | None,
    after: str | None,
    limit: int,
) -> JobPage:
    """Return one page: the queues in order of their names, each in the order of `JobStore.jobs`.

    Args:
        store: The store of the jobs.
        queues: Names of the queues to list.
        tenant: Owner of the jobs.
        state: List only jobs in this state.
        after: `JobPage.after` of the page before; None: from the start.
        limit: Most jobs of the page.

    Raises:
        BadRequest: `after` is not a cursor of this listing.
        StoreUnavailable: Redis does not answer.
    """
    first, inner = _read_cursor(after)
    jobs: list[Job] = []
    for name in sorted(queues):
        if name < first:
            continue
        try:
            page = await store.jobs(
                name,
                tenant,
                state=state,
                after=inner if name == first else None,
                limit=limit - len(jobs),
            )
        except ValueError:
            raise wrong_cursor() from None
        jobs += page.jobs
        if page.after is not None:
            return JobPage(jobs=jobs, after=_write_cursor(name, page.after))
        if len(jobs) >= limit:
            # "\0" sorts after this name, and before every other.
            return JobPage(jobs=jobs, after=_write_cursor(name + "\0", None))
    return JobPage(jobs=jobs, after=None)


def wrong_cursor() -> BadRequest:
    """Make the error for an `after` that is not from this listing."""
    return BadRequest(
        "`after` must be the `next_after` of a page of the same listing, with the same filters. "
        "Leave it out to start from the beginning.",
        param="after",
        code="invalid_cursor",
    )


def _write_cursor(queue: str, inner: str | None) -> str:
    text = json.dumps([queue, inner], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(after: str | None) -> tuple[str, str | None]:
    if after is None:
        return "", None
    try:
        queue, inner = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
    except (ValueError, TypeError):
        raise wrong_cursor() from None
    if not isinstance(queue, str) or not isinstance(inner, str | None):
        raise wrong_cursor()
    return queue, inner
