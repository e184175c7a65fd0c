"""The results of a batch: the result of each line, and the two files that collect them.

`BatchStore` writes the blocks of the files, together with the counts; `ResultFiles` counts them
against the tenant's space while they grow, and makes them files of the tenant at the end. Called by
`line_jobs` and `executor`.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable

from pydantic_core import from_json

from lengthwise_contract.states import JobState
from lengthwise_queue.batches import lines
from lengthwise_store.batches.batch import Batch, BatchStatus, LineResult, OpenLine
from lengthwise_store.errors import JobFailed, LengthwiseError, StorageFull
from lengthwise_store.files.file import StoredFile
from lengthwise_store.files.store import FileStore
from lengthwise_store.jobs import EntryKind, OutputEntry
from lengthwise_store.keys import BatchKeys
from lengthwise_store.output_reader import read_end
from lengthwise_store.store import JobStore

log = logging.getLogger(__name__)

#: The error of a line that was not executed.
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

#: Output entries read at once; a plain request has one for its response and one for its end.
_ENTRIES = 100

#: A growing file is counted again when it has grown by this much, bytes, ...
CHARGE_BYTES = 2**20
#: ... and at least this often, s, so that its space is not taken for abandoned.
CHARGE_EVERY_S = 60.0

#: Returns the HTTP status of an error.
StatusOf = Callable[[LengthwiseError], int]


def refused(job: str, line: OpenLine, error: LengthwiseError, status_of: StatusOf) -> LineResult:
    """Make the result of a line that ended with an error."""
    text = lines.answered(job, line.custom_id, status_of(error), error.as_openai())
    return LineResult(line=line.place.line, file="err", text=text)


def not_executed(job: str, line: OpenLine, why: BatchStatus) -> LineResult:
    """Make the result of a line that is not executed, because the batch ends."""
    text = lines.unanswered(job, line.custom_id, *NOT_EXECUTED[why])
    return LineResult(line=line.place.line, file="err", text=text)


async def result_of(
    store: JobStore,
    queue: str,
    job: str,
    line: OpenLine,
    *,
    closing: BatchStatus | None,
    status_of: StatusOf,
) -> LineResult | None:
    """Read the result of a line whose job has ended.

    Args:
        store: Where the job is.
        queue: Its queue.
        job: Its id.
        line: The line.
        closing: How the batch is about to end; None: it continues.
        status_of: Returns the HTTP status of an error.

    Returns:
        None: the job's output is gone, or has no end.
    """
    body: bytes | None = None
    last: OutputEntry | None = None
    after = "0-0"
    while last is None:
        entries = await store.read_output(queue, job, after=after, limit=_ENTRIES)
        if not entries:
            return None
        for entry in entries:
            match entry.kind:
                case EntryKind.ATTEMPT:
                    body = None
                case EntryKind.CHUNK:
                    body = entry.data
                case EntryKind.END:
                    last = entry
        after = entries[-1].id
    end = read_end(last)
    if end.state is JobState.EXPIRED:
        return not_executed(job, line, closing or BatchStatus.EXPIRED)
    if end.state is JobState.CANCELLED and closing is not None:
        return not_executed(job, line, closing)
    problem = end.problem(job)
    if problem is not None:
        return refused(job, line, problem, status_of)
    try:
        response = from_json(body or b"")
    except ValueError:
        gone = JobFailed("The engine's answer is not JSON.", job_id=job, code="malformed_answer")
        return refused(job, line, gone, status_of)
    return LineResult(
        line=line.place.line,
        file="out",
        text=lines.answered(job, line.custom_id, 200, response),
        input_tokens=end.prompt_tokens or 0,
        output_tokens=end.output_tokens or 0,
    )


class ResultFiles:
    """The output file and the error file of one batch.

    Args:
        files: Counts the space of all files.
        batch_id: The batch.
        tenant: Its owner.
    """

    def __init__(self, files: FileStore, batch_id: str, tenant: str) -> None:
        self._files, self._batch_id, self._tenant = files, batch_id, tenant
        self._charged = {"out": (0, 0.0), "err": (0, 0.0)}  #: Bytes, and when.
        self._full: str | None = None  #: The file for which there was no room.

    async def grown(self, out: int, err: int) -> None:
        """Count the present sizes of the files, bytes.

        What is written counts, even if there is no room for it: its jobs have run.
        """
        await self._grown("out", out)
        await self._grown("err", err)

    async def have_room(self) -> bool:
        """Return whether there is room for more results."""
        if self._full is None:
            return True
        charged, _ = self._charged[self._full]
        try:
            await self._files.charge(
                self._file_id(self._full), self._tenant, charged + CHARGE_BYTES
            )
        except StorageFull:
            return False
        self._charged[self._full] = (charged + CHARGE_BYTES, time.monotonic())
        self._full = None
        return True

    async def close(self, batch: Batch, now_ms: int) -> dict[str, str]:
        """Make them files of their owner. A repeated call does the same.

        Args:
            batch: The batch's record, with the sizes.
            now_ms: When the files are made, ms since the epoch.

        Returns:
            The fields of the batch that name them; an empty file is not made.
        """
        fields: dict[str, str] = {}
        keys = BatchKeys(batch.id)
        for kind, content, size, blocks, name in (
            ("out", keys.out, batch.out_bytes, batch.out_blocks, "output"),
            ("err", keys.err, batch.err_bytes, batch.err_blocks, "error"),
        ):
            if blocks == 0:
                continue
            file = StoredFile(
                id=self._file_id(kind),
                tenant=batch.tenant,
                filename=f"{batch.id}_{name}.jsonl",
                purpose="batch_output",
                bytes=size,
                blocks=blocks,
                created_ms=now_ms,
                expires_ms=now_ms + batch.output_ttl_ms,
                content=content,
            )
            await self._files.commit(file, batch.output_ttl_ms, forced=True)
            fields[f"{name}_file_id"] = file.id
        return fields

    async def _grown(self, kind: str, size: int) -> None:
        charged, at_s = self._charged[kind]
        now_s = time.monotonic()
        if size == 0 or (size - charged < CHARGE_BYTES and now_s < at_s + CHARGE_EVERY_S):
            return
        self._charged[kind] = (size, now_s)
        file_id = self._file_id(kind)
        try:
            await self._files.charge(file_id, self._tenant, size)
        except StorageFull:
            await self._files.charge(file_id, self._tenant, size, forced=True)
            self._full = kind
            log.warning(
                "batch waits for room for its results",
                extra={"batch_id": self._batch_id, "tenant": self._tenant},
            )

    def _file_id(self, kind: str) -> str:
        return f"file-{uuid.uuid5(uuid.NAMESPACE_OID, f'{self._batch_id} {kind}').hex}"
