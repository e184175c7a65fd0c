"""Cancel a job whose client is gone. Called by `submit` and by the service's routes."""

from __future__ import annotations

import asyncio
import logging

from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.store import JobStore

log = logging.getLogger(__name__)

#: How long a cancellation is tried while Redis does not answer, s.
CANCEL_FOR_S = 30.0

#: The pause between two tries, s.
CANCEL_EVERY_S = 0.5


async def withdraw(store: JobStore, queue: str, job_id: str, reason: str) -> None:
    """Cancel a job that no client waits for; try again while Redis does not answer.

    Args:
        store: Where the job is.
        queue: The job's.
        job_id: The job's.
        reason: Why, for the log.
    """
    ids = {"job_id": job_id, "queue": queue, "reason": reason}
    for _ in range(int(CANCEL_FOR_S / CANCEL_EVERY_S)):
        try:
            state = await store.cancel(queue, job_id)
        except StoreUnavailable:
            await asyncio.sleep(CANCEL_EVERY_S)
            continue
        log.info("job withdrawn", extra={**ids, "state": state})
        return
    log.warning("job not withdrawn, Redis does not answer; the job will be served", extra=ids)
