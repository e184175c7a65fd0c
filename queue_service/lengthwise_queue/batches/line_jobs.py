"""The open lines of one batch: submit their jobs, and write the results of the jobs that end.

Called by `executor`. A line is open from the moment it is noted in Redis until its result is
written. This rule makes it safe to kill a replica at any moment: a line is opened before its job is
submitted, under an id that follows from the batch and the line, and an open line without a job is
submitted again. One step writes a result, counts it and closes the line.
"""

from __future__ import annotations

import asyncio
import logging
import time

from lengthwise_contract.states import TERMINAL, JobState
from lengthwise_queue.batches import results, submission
from lengthwise_queue.batches.claimed import ClaimedBatch
from lengthwise_queue.batches.input import GROUP_LINES, BatchInput
from lengthwise_queue.batches.lines import InputLine
from lengthwise_queue.batches.results import ResultFiles, StatusOf
from lengthwise_queue.batches.submission import LineTries
from lengthwise_queue.errors import BadRequest, QueueDraining, QueueOverloaded
from lengthwise_store.batches.batch import BatchStatus, LineResult, OpenLine, Place
from lengthwise_store.errors import JobFailed, LengthwiseError, StoreUnavailable

log = logging.getLogger(__name__)

#: Lines of one step that are submitted at the same time: the predictor answers many at once.
SUBMITS = 8

#: Results that are written in one step, and their bytes.
WRITE_LINES = 64
WRITE_BYTES = 4 * 2**20

#: Jobs whose states are read in one call.
STATES = 500

#: The pause after the store did not answer, s.
STORE_PAUSE_S = 0.2

#: The longest pause after the queue refused a line, s; there may be room long before `Retry-After`.
REFUSED_PAUSE_S = 2.0

#: How long withdrawn jobs may take to end before the batch ends without them, s.
WITHDRAW_S = 60.0

#: The pause between two looks at withdrawn jobs, s.
WITHDRAW_PAUSE_S = 0.1


class LineJobs:
    """The open lines of one batch, and the jobs that execute them.

    Args:
        batch: The batch.
        batch_input: Its input file.
        status_of: Returns the HTTP status of an error.
    """

    def __init__(self, batch: ClaimedBatch, batch_input: BatchInput, status_of: StatusOf) -> None:
        self._batch = batch
        self._service = batch.service
        self._store = batch.service.batches
        self._input = batch_input
        self._status_of = status_of
        self._opened: dict[int, OpenLine] = {}
        self._waiting: dict[int, InputLine] = {}  #: Open and read, but not accepted by the queue.
        self._tries = LineTries()
        self._not_before_s = 0.0  #: No line is submitted before this.
        self._exhausted = False  #: The input has no more lines.
        self.files = ResultFiles(batch.service.files, batch.record.id, batch.record.tenant)

    @property
    def done(self) -> bool:
        """Whether every line of the input has its result."""
        return self._exhausted and not self._opened

    async def load(self) -> None:
        """Read the open lines from Redis."""
        self._opened = await self._store.open_lines(self._batch.record.id)

    # ------------------------------------------------------------------ lines become jobs

    async def step(self) -> bool:
        """Write the available results, then open and submit lines; return whether anything changed.

        Raises:
            BatchLost: Another replica has the batch.
            StoreUnavailable: Redis does not answer.
            InputGone: The input file is no longer there.
        """
        moved, orphans = await self._collect(None)
        orphans = [n for n in orphans if self._tries.due(n)]
        for number in [n for n in orphans if self._tries.vanished(n)]:
            orphans.remove(number)
            await self._refuse(
                self._opened[number], submission.job_gone(self._batch.job_id(number))
            )
        if time.monotonic() < self._not_before_s or self._batch.cancelled:
            return moved
        if not self._waiting and orphans:
            # A replica, perhaps this one, opened these lines and was stopped before it submitted.
            again = await self._input.pick([self._opened[n].place for n in orphans])
            self._waiting = {line.place.line: line for line in again}
        elif not await self.files.have_room():
            self._pause(REFUSED_PAUSE_S)  # and open no lines
        elif not self._waiting and not self._exhausted:
            room = await self._window() - len(self._opened)
            self._exhausted = room > 0 and not await self._open(min(room, GROUP_LINES))
        return await self._submit_waiting() or moved

    async def _window(self) -> int:
        """Compute how many lines may be open: at most half of what the queue takes."""
        window = self._service.settings.batch_window
        try:
            snapshot = await self._service.queue_cache.get(self._batch.tenant(), self._batch.queue)
        except BadRequest:
            return window  # the tenant may no longer use the model; every line gets that error
        return min(window, max(snapshot.settings.max_depth // 2, 1))

    async def _open(self, room: int) -> bool:
        """Open the next lines; return False if there are none."""
        lines = await self._input.next(room)
        if not lines:
            return False
        opened = [self._batch.opened(line) for line in lines]
        await self._store.open(self._batch.record, self._batch.nonce, lines[-1].end, opened)
        self._batch.set_cursor(lines[-1].end)
        self._opened |= {one.place.line: one for one in opened}
        self._waiting = {line.place.line: line for line in lines}
        return True

    async def _submit_waiting(self) -> bool:
        """Submit the waiting lines until the queue refuses one; return whether it took any."""
        before = len(self._waiting)
        turns = asyncio.Semaphore(SUBMITS)
        if not before:
            return False

        async def one(line: InputLine) -> None:
            async with turns:
                # The first refusal counts for all: the others would be refused as well.
                if time.monotonic() >= self._not_before_s and not self._batch.cancelled:
                    await self._submit(line)

        async with asyncio.TaskGroup() as group:
            for line in list(self._waiting.values()):
                group.create_task(one(line))
        return len(self._waiting) < before

    async def _submit(self, line: InputLine) -> None:
        batch, number = self._batch, line.place.line
        opened = self._opened.get(number)
        if opened is None:
            self._waiting.pop(number, None)
            return
        try:
            await submission.submit(batch, line)
        except (QueueOverloaded, QueueDraining) as exc:
            self._pause(min(exc.retry_after_s or 1, REFUSED_PAUSE_S))
        except StoreUnavailable:
            # The job may have been written, and only not confirmed: the next try has the same id.
            self._pause(STORE_PAUSE_S)
        except LengthwiseError as exc:
            await self._refuse(opened, exc)
        except Exception:
            # The outermost frame of one line: an error in it must not stop the others.
            log.exception("unexpected error in a line of a batch", extra=self._ids(number))
            if self._tries.failed(number):
                await self._give_up_line(opened)
            else:
                self._waiting.pop(number, None)  # an orphan, which is picked again
        else:
            self._waiting.pop(number, None)
            self._tries.submitted(number)

    async def _refuse(self, opened: OpenLine, error: LengthwiseError) -> None:
        """Write the error of a line that does not become a job."""
        number = opened.place.line
        job = self._batch.job_id(number)
        await self.write([results.refused(job, opened, error, self._status_of)])
        self._waiting.pop(number, None)

    async def _give_up_line(self, opened: OpenLine) -> None:
        """Withdraw the job of a line, if it has one, and write that the line failed."""
        number = opened.place.line
        job = self._batch.job_id(number)
        try:
            await self._service.store.cancel(self._batch.queue, job)
        except StoreUnavailable:
            self._pause(STORE_PAUSE_S)  # the line is tried again
            return
        await self._refuse(opened, submission.faulty(job))

    def _ids(self, number: int) -> dict[str, object]:
        batch = self._batch
        return {"batch_id": batch.record.id, "line": number, "job_id": batch.job_id(number)}

    def _pause(self, pause_s: float) -> None:
        self._not_before_s = time.monotonic() + pause_s

    # ------------------------------------------------------------------ jobs become results

    async def _collect(self, closing: BatchStatus | None) -> tuple[bool, list[int]]:
        """Write the results of the jobs that have ended.

        Args:
            closing: How the batch is about to end; None: it continues.

        Returns:
            Whether there were any; and the open lines that have no job and do not wait for one.
        """
        orphans, ready, size, any_ended = [], [], 0, False
        for number, state in await self._states():
            if state is None:
                if number not in self._waiting:
                    orphans.append(number)
                continue
            if state not in TERMINAL:
                continue
            result = await self._result(number, closing)
            ready.append(result)
            size += len(result.text)
            any_ended = True
            if len(ready) >= WRITE_LINES or size >= WRITE_BYTES:
                await self.write(ready)
                ready, size = [], 0
        await self.write(ready)
        return any_ended, orphans

    async def _states(self) -> list[tuple[int, JobState | None]]:
        """Read the states of the open lines' jobs, a few hundred at a time."""
        found: list[tuple[int, JobState | None]] = []
        numbers = list(self._opened)
        for at in range(0, len(numbers), STATES):
            some = numbers[at : at + STATES]
            jobs = [self._batch.job_id(n) for n in some]
            states = await self._service.store.states(self._batch.queue, jobs)
            found += zip(some, states, strict=True)
        return found

    async def _result(self, number: int, closing: BatchStatus | None) -> LineResult:
        job, line = self._batch.job_id(number), self._opened[number]
        try:
            result = await results.result_of(
                self._service.store,
                self._batch.queue,
                job,
                line,
                closing=closing,
                status_of=self._status_of,
            )
        except StoreUnavailable:
            raise
        except Exception:
            # The outermost frame of one line: an error in it must not stop the others.
            log.exception("the result of a batch's line cannot be read", extra=self._ids(number))
            result = None
        if result is not None:
            return result
        return results.refused(job, line, JobFailed.answer_missing(job), self._status_of)

    async def write(self, ready: list[LineResult], *, cursor: Place | None = None) -> None:
        """Write results and close their lines; with `cursor`, also move the batch's cursor."""
        if not ready:
            return
        out, err = await self._store.write_results(
            self._batch.record, self._batch.nonce, ready, to=cursor
        )
        for result in ready:
            self._opened.pop(result.line, None)
            self._tries.forget(result.line)
        await self.files.grown(out, err)

    async def withdraw(self, why: BatchStatus) -> None:
        """Cancel the jobs of the open lines, and write the result of each line.

        Args:
            why: How the batch is about to end.
        """
        self._waiting.clear()
        for number in list(self._opened):
            await self._service.store.cancel(self._batch.queue, self._batch.job_id(number))
        give_up_s = time.monotonic() + WITHDRAW_S
        while self._opened:
            _, orphans = await self._collect(why)
            if time.monotonic() > give_up_s:
                orphans = list(self._opened)
            for number in orphans:
                gone = self._opened[number]
                await self.write([results.not_executed(self._batch.job_id(number), gone, why)])
            if self._opened:
                await asyncio.sleep(WITHDRAW_PAUSE_S)
