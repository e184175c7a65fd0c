"""Execute one batch: check it, run its lines, complete its files. One object a batch.

The statuses in order: VALIDATING, IN_PROGRESS, FINALIZING, COMPLETED; or FAILED, EXPIRED, or
CANCELLING and CANCELLED. `line_jobs` does the work on the lines.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from pydantic_core import to_json

from lengthwise_queue.batches import results
from lengthwise_queue.batches.claimed import ClaimedBatch
from lengthwise_queue.batches.input import BatchInput, InputGone
from lengthwise_queue.batches.line_jobs import WRITE_LINES, LineJobs
from lengthwise_queue.batches.lines import Checker
from lengthwise_queue.batches.results import StatusOf
from lengthwise_queue.errors import BadRequest
from lengthwise_store.batches.batch import START, BatchLost, BatchStatus

log = logging.getLogger(__name__)

_INPUT_GONE = to_json(
    [
        {
            "code": "input_file_gone",
            "line": None,
            "message": "The input file was deleted or has expired.",
            "param": "input_file_id",
        }
    ]
)

#: The pause after a step in which nothing moved, s: it doubles up to the longest.
PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0


class BatchExecutor:
    """Executes one batch. `BatchLost` and `StoreUnavailable` end the work early.

    Args:
        batch: The batch, leased to this replica.
        status_of: Returns the HTTP status of an error.
    """

    def __init__(self, batch: ClaimedBatch, status_of: StatusOf) -> None:
        self._batch = batch
        self._store = batch.service.batches
        self._input = BatchInput(
            batch.service.files,
            tenant=batch.record.tenant,
            file_id=batch.record.input_file_id,
            max_line=batch.max_line,
        )
        self._lines = LineJobs(batch, self._input, status_of)

    @property
    def status(self) -> BatchStatus:
        """The batch's status, as this replica knows it."""
        return self._batch.record.status

    def cancel(self) -> None:
        """Note that the batch's owner has cancelled it; the next step ends it."""
        self._batch.cancelled = True

    async def run(self) -> None:
        """Execute the batch until it has ended.

        Raises:
            BatchLost: Another replica has the batch.
            StoreUnavailable: Redis does not answer.
        """
        try:
            if self.status is BatchStatus.VALIDATING:
                await self._validate()
            if self.status is BatchStatus.IN_PROGRESS:
                await self._lines.load()
                await self._progress()
            if self.status is BatchStatus.CANCELLING:
                await self._close(BatchStatus.CANCELLED)
        except InputGone:
            await self.give_up(_INPUT_GONE)
        if self.status is BatchStatus.FINALIZING:
            await self._to(BatchStatus.COMPLETED, **await self._files())

    async def give_up(self, errors: bytes) -> None:
        """End the batch without its other lines: withdraw its jobs, and keep the results so far.

        Args:
            errors: Why, for the batch's record.

        Raises:
            BatchLost: Another replica has the batch.
            StoreUnavailable: Redis does not answer.
        """
        cancelling = self._batch.cancelled or self.status is BatchStatus.CANCELLING
        to = BatchStatus.CANCELLED if cancelling else BatchStatus.FAILED
        if cancelling:
            self._batch.set_status(BatchStatus.CANCELLING)
        await self._lines.load()
        await self._lines.withdraw(to)
        files = await self._files()
        if await self._store.move(
            self._batch.record, self._batch.nonce, to, errors=errors, **files
        ):
            self._batch.set_status(to)
            log.info("batch moved", extra={"batch_id": self._batch.record.id, "status": to})
            return
        if cancelling:
            raise BatchLost(self._batch.record.id)  # the record is gone
        self._batch.cancelled = True  # by its owner, meanwhile
        await self.give_up(errors)

    async def _validate(self) -> None:
        """Check the whole input, before anything runs."""
        batch = self._batch
        checker = Checker(batch.record.endpoint, batch.max_line)
        async with aclosing(self._input.lines(START)) as lines:
            async for line in lines:
                checker.take(line)
                if checker.gave_up or batch.cancelled:
                    break
                if checker.total % 100 == 0:
                    await asyncio.sleep(0)  # a block may hold thousands of lines
        checker.close()
        if batch.cancelled:
            batch.set_status(BatchStatus.CANCELLING)
            return
        if checker.model is not None and not checker.errors:
            try:
                await batch.service.queue_cache.get(batch.tenant(), checker.model)
            except BadRequest as exc:
                checker.note(exc.code, exc.message, "body.model", 1)
        if checker.errors:
            await self._to(BatchStatus.FAILED, errors=to_json(checker.errors))
        else:
            await self._to(BatchStatus.IN_PROGRESS, total=checker.total, model=checker.model or "")
            batch.record = replace(batch.record, total=checker.total, model=checker.model)

    async def _progress(self) -> None:
        """Run the lines until each has its result, or the batch expires or is cancelled."""
        batch, pause_s = self._batch, PAUSE_S
        self._input.go_to(batch.record.cursor)
        while not batch.cancelled:
            if batch.now_ms() >= batch.record.expires_ms:
                await self._close(BatchStatus.EXPIRED)
                return
            moved = await self._lines.step()
            if self._lines.done:
                await self._to(BatchStatus.FINALIZING)
                return
            pause_s = PAUSE_S if moved else min(pause_s * 2, LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)
        # In Redis it has this status already.
        batch.set_status(BatchStatus.CANCELLING)

    async def _close(self, why: BatchStatus) -> None:
        """End a batch early: cancel its jobs, and write "not executed" for every other line."""
        batch = self._batch
        await self._lines.load()
        await self._lines.withdraw(why)
        self._input.go_to(batch.record.cursor)
        while batch.record.total:  # 0: the batch was cancelled before it was checked
            lines = await self._input.next(WRITE_LINES)
            if not lines:
                break
            ready = []
            for line in lines:
                job = batch.job_id(line.place.line)
                ready.append(results.not_executed(job, batch.opened(line), why))
            await self._lines.write(ready, cursor=lines[-1].end)
            batch.set_cursor(lines[-1].end)
        await self._to(why, **await self._files())

    async def _files(self) -> dict[str, str]:
        """Give the result files to their owner; return the fields of the record that name them."""
        batch = self._batch
        record = await self._store.get(batch.record.tenant, batch.record.id)
        if record is None:
            return {}
        return await self._lines.files.close(record, round(batch.now_ms()))

    async def _to(self, status: BatchStatus, **fields: Any) -> None:
        batch = self._batch
        if await self._store.move(batch.record, batch.nonce, status, **fields):
            batch.set_status(status)
            log.info("batch moved", extra={"batch_id": batch.record.id, "status": status})
            return
        if self.status is BatchStatus.CANCELLING:
            raise BatchLost(batch.record.id)  # the record is gone
        # Only its owner can have moved it meanwhile, by cancelling it.
        batch.cancelled = True
        batch.set_status(BatchStatus.CANCELLING)
        await self._close(BatchStatus.CANCELLED)
