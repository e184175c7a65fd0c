"""What a line's job gave, as a line of the batch's output or error file. Called by the runner."""

from __future__ import annotations

from collections.abc import Callable

from pydantic_core import from_json

from lengthwise_contract.states import JobState
from lengthwise_queue.batches import lines
from lengthwise_store.batches.store import BatchStatus, OpenLine, Result
from lengthwise_store.errors import JobFailed, LengthwiseError
from lengthwise_store.jobs import EntryKind, OutputEntry
from lengthwise_store.output_reader import read_end
from lengthwise_store.store import JobStore

#: What the error file says of a line that was not executed.
NOT_EXECUTED = {
    BatchStatus.EXPIRED: (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    BatchStatus.CANCELLED: (
        "batch_cancelled",
        "This request was not executed, because the batch was cancelled.",
    ),
    BatchStatus.FAILED: (
        "batch_failed",
        "This request was not executed, because the batch failed.",
    ),
}

#: Entries read at once; the answer of a plain request is one, and its end another.
_PAGE = 100

StatusOf = Callable[[LengthwiseError], int]


def refused(job: str, line: OpenLine, error: LengthwiseError, status_of: StatusOf) -> Result:
    """The result of a request that got this error."""
    text = lines.answered(job, line.custom_id, status_of(error), error.as_openai())
    return Result(line=line.place.line, file="err", text=text)


def not_executed(job: str, line: OpenLine, why: BatchStatus) -> Result:
    """The result of a request that nobody will execute any more."""
    text = lines.unanswered(job, line.custom_id, *NOT_EXECUTED[why])
    return Result(line=line.place.line, file="err", text=text)


async def result_of(
    store: JobStore,
    queue: str,
    job: str,
    line: OpenLine,
    *,
    closing: BatchStatus | None,
    status_of: StatusOf,
) -> Result | None:
    """The result of a line whose job has ended; None: its output is gone, or has no end.

    Args:
        store: Where the job is.
        queue: Its queue.
        job: Its id.
        line: The line.
        closing: How the batch is about to end; None: it goes on.
        status_of: The HTTP status of an error.
    """
    body: bytes | None = None
    end: OutputEntry | None = None
    after = "0-0"
    while end is None:
        page = await store.read_output(queue, job, after=after, limit=_PAGE)
        if not page:
            return None
        for entry in page:
            match entry.kind:
                case EntryKind.ATTEMPT:
                    body = None
                case EntryKind.CHUNK:
                    body = entry.data
                case EntryKind.END:
                    end = entry
        after = page[-1].id
    told = read_end(end)
    if told.state is JobState.EXPIRED:
        return not_executed(job, line, closing or BatchStatus.EXPIRED)
    if told.state is JobState.CANCELLED and closing is not None:
        return not_executed(job, line, closing)
    problem = told.problem(job)
    if problem is not None:
        return refused(job, line, problem, status_of)
    try:
        answer = from_json(body or b"")
    except ValueError:
        gone = JobFailed("The engine's answer is no JSON.", job_id=job, code="malformed_answer")
        return refused(job, line, gone, status_of)
    return Result(
        line=line.place.line,
        file="out",
        text=lines.answered(job, line.custom_id, 200, answer),
        input_tokens=told.prompt_tokens or 0,
        output_tokens=told.output_tokens or 0,
    )
