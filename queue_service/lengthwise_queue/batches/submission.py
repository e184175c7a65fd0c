"""Submit one line of a batch as a job, and count the tries. Called by `line_jobs`."""

from __future__ import annotations

import time
from collections import Counter

from lengthwise_queue.admission.job_options import JobOptions
from lengthwise_queue.batches import lines
from lengthwise_queue.batches.claimed import ClaimedBatch
from lengthwise_queue.batches.lines import BadLine, InputLine
from lengthwise_queue.errors import BadRequest
from lengthwise_queue.openai.registry import endpoint_at
from lengthwise_store.errors import JobFailed

#: A line fails when its job vanished this often, or this many unexpected errors met it.
MOST_TRIES = 3

#: The pause before a line is tried again after an unexpected error, s; it doubles.
FAULT_PAUSE_S = 2.0


class LineTries:
    """How often each open line of a batch was tried, so that no line is tried for ever."""

    def __init__(self) -> None:
        self._submits: Counter[int] = Counter()
        self._faults: Counter[int] = Counter()
        self._not_before_s: dict[int, float] = {}

    def submitted(self, line: int) -> None:
        """Note that a line became a job."""
        self._submits[line] += 1

    def vanished(self, line: int) -> bool:
        """Whether to give up a line whose job does not exist: it became one often enough."""
        return self._submits[line] >= MOST_TRIES

    def failed(self, line: int) -> bool:
        """Note an unexpected error; return whether to give the line up. Else it is set aside."""
        self._faults[line] += 1
        pause_s = FAULT_PAUSE_S * 2.0 ** (self._faults[line] - 1)
        self._not_before_s[line] = time.monotonic() + pause_s
        return self._faults[line] >= MOST_TRIES

    def due(self, line: int) -> bool:
        """Whether a line may be tried now."""
        return time.monotonic() >= self._not_before_s.get(line, 0.0)

    def forget(self, line: int) -> None:
        """Forget a line that has its result."""
        for notes in (self._submits, self._faults, self._not_before_s):
            notes.pop(line, None)


async def submit(batch: ClaimedBatch, line: InputLine) -> None:
    """Submit a line under its id; a repeated call finds the same job.

    Args:
        batch: Its batch.
        line: The line.

    Raises:
        LengthwiseError: The line cannot become a job, now or ever. Anything may have changed since
            the input was checked: the queue, the tenant and their limits.
    """
    try:
        request = batch.parse(line)
        body = lines.body_of(request)
    except BadLine as exc:
        raise BadRequest(exc.message, param=exc.param, code=exc.code) from exc
    parsed = endpoint_at(batch.record.endpoint).parse(request.body)
    service = batch.service
    snapshot = await service.queue_cache.get(batch.tenant(), parsed.model)
    names = [c.name for c in snapshot.settings.classes]
    options = JobOptions(
        job_class="batch" if "batch" in names else names[-1],
        ttl_ms=max(round(batch.record.expires_ms - batch.now_ms()), 1000),
        job_id=batch.job_id(line.place.line),
    )
    await service.admission.submit(batch.tenant(), batch.record.endpoint, body, parsed, options)


def job_gone(job: str) -> JobFailed:
    """Make the error of a line whose job vanished after each of several submits."""
    return JobFailed(
        f"The record of this request's job vanished {MOST_TRIES} times before its answer was read. "
        "Check who deletes jobs, and how long the queue keeps finished ones.",
        job_id=job,
        code="job_gone",
    )


def faulty(job: str) -> JobFailed:
    """Make the error of a line that could not be submitted because of an unexpected error."""
    return JobFailed(
        "The request could not be submitted, because of an unexpected error. The log of the queue "
        f"service has it, under the job {job}.",
        job_id=job,
        code="internal_error",
    )
