"""The work on one batch, from its check to its files. Called by `batch_runner`, one object a batch.

The rule that makes it safe to be killed anywhere: a line is noted as begun before its job is handed
in, under an id that follows from the batch and the line; and a begun line without a job is handed
in (again). Its result is written, counted and struck off the begun ones in one step.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from pydantic_core import to_json

from lengthwise_contract.states import TERMINAL
from lengthwise_queue.admission.job_options import JobOptions
from lengthwise_queue.batches import lines as batch_lines
from lengthwise_queue.batches import results as batch_results
from lengthwise_queue.batches.input import GROUP_LINES, BatchInput, InputGone
from lengthwise_queue.batches.lines import Checker, Line
from lengthwise_queue.batches.result_files import ResultFiles
from lengthwise_queue.errors import BadRequest, QueueDraining, QueueOverloaded
from lengthwise_queue.openai import validate
from lengthwise_queue.service import Service
from lengthwise_queue.tenants.tenant import Tenant
from lengthwise_store.batches.store import (
    START,
    Batch,
    BatchStatus,
    Lost,
    OpenLine,
    Place,
    Result,
)
from lengthwise_store.errors import JobFailed, LengthwiseError, StoreUnavailable

log = logging.getLogger(__name__)

#: Lines of one step that are handed in at the same time: the predictor answers many at once.
SUBMITS = 8

#: Results that are written in one step, and their bytes.
SETTLE_LINES = 64
SETTLE_BYTES = 4 * 2**20

#: Pause when nothing happened, s: it doubles up to the longest.
PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0

#: Longest pause after the queue refused a line, s; there may be room long before `Retry-After`.
REFUSED_PAUSE_S = 2.0

#: How long withdrawn jobs may take to end before the batch ends without them, s.
WITHDRAW_S = 60.0


class BatchWork:
    """See the module. It ends when the batch has; `Lost` and `StoreUnavailable` end it early."""

    def __init__(
        self,
        service: Service,
        batch: Batch,
        nonce: str,
        now_ms: int,
        status_of: batch_results.StatusOf,
    ) -> None:
        self._service = service
        self._store = service.batches
        self._batch = batch
        self._nonce = nonce
        self._status_of = status_of
        self._clock_ms = now_ms - time.monotonic() * 1000
        self._max_line = service.settings.max_body_bytes + batch_lines.LINE_OVERHEAD_BYTES
        self._input = BatchInput(
            service.files,
            tenant=batch.tenant,
            file_id=batch.input_file_id,
            max_line=self._max_line,
        )
        self._cancelled = batch.status is BatchStatus.CANCELLING
        self._opened: dict[int, OpenLine] = {}
        self._waiting: dict[int, Line] = {}  #: Begun and read, and not yet accepted by the queue.
        self._not_before_s = 0.0
        self._results = ResultFiles(service.files, batch.id, batch.tenant)

    @property
    def status(self) -> BatchStatus:
        """The batch's status, as far as we brought it."""
        return self._batch.status

    def cancel(self) -> None:
        """Its owner withdrew it."""
        self._cancelled = True

    async def run(self) -> None:
        """Bring the batch to its end.

        Raises:
            Lost: Another replica has it.
            StoreUnavailable: Redis does not answer.
        """
        try:
            if self.status is BatchStatus.VALIDATING:
                await self._validate()
            if self.status is BatchStatus.IN_PROGRESS:
                self._opened = await self._store.opened(self._batch.id)
                await self._progress()
            if self.status is BatchStatus.CANCELLING:
                await self._close(BatchStatus.CANCELLED)
        except InputGone:
            gone = {
                "code": "input_file_gone",
                "line": None,
                "message": "The input file was deleted or has expired.",
                "param": "input_file_id",
            }
            withdrawn = self.status is BatchStatus.CANCELLING
            to = BatchStatus.CANCELLED if withdrawn else BatchStatus.FAILED
            await self._withdraw(to)
            await self._to(to, errors=to_json([gone]), **await self._files())
        if self.status is BatchStatus.FINALIZING:
            await self._to(BatchStatus.COMPLETED, **await self._files())

    # ------------------------------------------------------------------ checking the input

    async def _validate(self) -> None:
        checker = Checker(self._batch.endpoint, self._max_line)
        async with aclosing(self._input.lines(START)) as lines:
            async for line in lines:
                checker.take(line)
                if checker.gave_up or self._cancelled:
                    break
                if checker.total % 100 == 0:
                    await asyncio.sleep(0)  # a block may hold thousands of lines
        checker.close()
        if self._cancelled:
            self._batch = replace(self._batch, status=BatchStatus.CANCELLING)
            return
        if checker.model is not None and not checker.errors:
            try:
                await self._service.queue_cache.get(self._tenant(), checker.model)
            except BadRequest as exc:
                checker.note(exc.code, exc.message, "body.model", 1)
        if checker.errors:
            await self._to(BatchStatus.FAILED, errors=to_json(checker.errors))
        else:
            await self._to(BatchStatus.IN_PROGRESS, total=checker.total, model=checker.model or "")
            self._batch = replace(self._batch, total=checker.total, model=checker.model)

    # ------------------------------------------------------------------ lines become jobs

    async def _progress(self) -> None:
        pause_s, exhausted = PAUSE_S, False
        self._input.go_to(self._batch.cursor)
        while not self._cancelled:
            if self._now_ms() >= self._batch.expires_ms:
                await self._close(BatchStatus.EXPIRED)
                return
            moved, orphans = await self._collect(None)
            if time.monotonic() >= self._not_before_s and not self._cancelled:
                if not self._waiting and orphans:
                    # We, or another before us, noted them as begun and did not get further.
                    again = await self._input.pick([self._opened[n].place for n in orphans])
                    self._waiting = {line.place.line: line for line in again}
                elif not await self._results.have_room():
                    self._not_before_s = time.monotonic() + REFUSED_PAUSE_S  # no new lines
                elif not self._waiting and not exhausted:
                    room = await self._window() - len(self._opened)
                    exhausted = room > 0 and not await self._begin(min(room, GROUP_LINES))
                moved |= await self._hand_in()
            if exhausted and not self._opened:
                await self._to(BatchStatus.FINALIZING)
                return
            pause_s = PAUSE_S if moved else min(pause_s * 2, LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)
        # It was cancelled, in Redis already.
        self._batch = replace(self._batch, status=BatchStatus.CANCELLING)

    async def _window(self) -> int:
        """How many lines may be begun: never so many that the queue is full of them."""
        window = self._service.settings.batch_window
        try:
            snapshot = await self._service.queue_cache.get(self._tenant(), self._batch.model or "")
        except BadRequest:
            return window  # it may use the model no longer: each line's result says so
        return min(window, max(snapshot.settings.max_depth // 2, 1))

    async def _begin(self, room: int) -> bool:
        """Note the next lines as begun; False: there are none."""
        lines = await self._input.next(room)
        if not lines:
            return False
        begun: list[OpenLine] = []
        for line in lines:
            request = batch_lines.parse(line, self._batch.endpoint, self._max_line)
            begun.append(OpenLine(place=line.place, custom_id=request.custom_id))
        await self._store.open(self._batch, self._nonce, lines[-1].end, begun)
        self._batch = replace(self._batch, cursor=lines[-1].end)
        self._opened |= {one.place.line: one for one in begun}
        self._waiting = {line.place.line: line for line in lines}
        return True

    async def _hand_in(self) -> bool:
        """Hand in what waits, until the queue refuses; whether it took any."""
        before = len(self._waiting)
        turns = asyncio.Semaphore(SUBMITS)
        if not before:
            return False

        async def one(line: Line) -> None:
            async with turns:
                # The first refusal is for all: the others would only ask the same again.
                if time.monotonic() >= self._not_before_s and not self._cancelled:
                    await self._submit(line)

        async with asyncio.TaskGroup() as group:
            for line in list(self._waiting.values()):
                group.create_task(one(line))
        return len(self._waiting) < before

    async def _submit(self, line: Line) -> None:
        batch, number = self._batch, line.place.line
        opened = self._opened.get(number)
        if opened is None:
            self._waiting.pop(number, None)
            return
        job = self._job(number)
        try:
            request = batch_lines.parse(line, batch.endpoint, self._max_line)
            checked = validate.check(batch.endpoint, request.body)
            snapshot = await self._service.queue_cache.get(self._tenant(), checked.model)
            names = [c.name for c in snapshot.settings.classes]
            wishes = JobOptions(
                job_class="batch" if "batch" in names else names[-1],
                ttl_ms=max(round(batch.expires_ms - self._now_ms()), 1000),
                job_id=job,
            )
            await self._service.admission.submit(
                self._tenant(),
                batch.endpoint,
                to_json(request.body),
                checked,
                wishes,
            )
        except (QueueOverloaded, QueueDraining) as exc:
            pause_s = min(exc.retry_after_s or 1, REFUSED_PAUSE_S)
            self._not_before_s = time.monotonic() + pause_s
        except StoreUnavailable:
            # Perhaps it was written, and only not confirmed: the next try has the same id.
            self._not_before_s = time.monotonic() + PAUSE_S * 10
        except LengthwiseError as exc:
            await self._settle([batch_results.refused(job, opened, exc, self._status_of)])
            self._waiting.pop(number, None)
        else:
            self._waiting.pop(number, None)

    # ------------------------------------------------------------------ jobs become results

    async def _collect(self, closing: BatchStatus | None) -> tuple[bool, list[int]]:
        """Write the results of the jobs that have ended.

        Returns:
            Whether there were any; and the begun lines that have no job and do not wait for one.
        """
        numbers, queue = list(self._opened), self._batch.model or ""
        states = await self._service.store.states(queue, [self._job(n) for n in numbers])
        orphans, results, size, any_ended = [], [], 0, False
        for number, state in zip(numbers, states, strict=True):
            if state is None:
                if number not in self._waiting:
                    orphans.append(number)
                continue
            if state not in TERMINAL:
                continue
            result = await self._result(number, closing)
            results.append(result)
            size += len(result.text)
            any_ended = True
            if len(results) >= SETTLE_LINES or size >= SETTLE_BYTES:
                await self._settle(results)
                results, size = [], 0
        await self._settle(results)
        return any_ended, orphans

    async def _result(self, number: int, closing: BatchStatus | None) -> Result:
        job, line = self._job(number), self._opened[number]
        result = await batch_results.result_of(
            self._service.store,
            self._batch.model or "",
            job,
            line,
            closing=closing,
            status_of=self._status_of,
        )
        if result is not None:
            return result
        damaged = JobFailed.answer_missing(job)
        return batch_results.refused(job, line, damaged, self._status_of)

    async def _settle(self, results: list[Result], *, to: Place | None = None) -> None:
        if not results:
            return
        out, err = await self._store.settle(self._batch, self._nonce, results, to=to)
        for result in results:
            self._opened.pop(result.line, None)
        await self._results.grown(out, err)

    # ------------------------------------------------------------------ the end

    async def _close(self, why: BatchStatus) -> None:
        """End a batch early: withdraw its jobs, and say of every other line that it did not run."""
        self._opened = await self._store.opened(self._batch.id)
        await self._withdraw(why)
        self._input.go_to(self._batch.cursor)
        while self._batch.total:  # none: it was withdrawn before it was checked
            lines = await self._input.next(SETTLE_LINES)
            if not lines:
                break
            results = []
            for line in lines:
                request = batch_lines.parse(line, self._batch.endpoint, self._max_line)
                opened = OpenLine(place=line.place, custom_id=request.custom_id)
                results.append(batch_results.not_executed(self._job(line.place.line), opened, why))
            await self._settle(results, to=lines[-1].end)
            self._batch = replace(self._batch, cursor=lines[-1].end)
        await self._to(why, **await self._files())

    async def _withdraw(self, why: BatchStatus) -> None:
        """Withdraw the begun lines' jobs and take their results, whatever those are."""
        queue = self._batch.model or ""
        self._waiting.clear()
        for number in list(self._opened):
            await self._service.store.cancel(queue, self._job(number))
        give_up_s = time.monotonic() + WITHDRAW_S
        while self._opened:
            _, orphans = await self._collect(why)
            if time.monotonic() > give_up_s:
                orphans = list(self._opened)
            for number in orphans:
                gone = self._opened[number]
                await self._settle([batch_results.not_executed(self._job(number), gone, why)])
            if self._opened:
                await asyncio.sleep(PAUSE_S * 5)

    async def _files(self) -> dict[str, str]:
        """Make the results files of their owner; the fields of the record that name them."""
        batch = await self._store.get(self._batch.tenant, self._batch.id)
        return {} if batch is None else await self._results.close(batch, round(self._now_ms()))

    # ------------------------------------------------------------------ small things

    async def _to(self, status: BatchStatus, **fields: Any) -> None:
        if await self._store.move(self._batch, self._nonce, status, **fields):
            self._batch = replace(self._batch, status=status)
            log.info("batch moved", extra={"batch_id": self._batch.id, "status": status})
            return
        if self.status is BatchStatus.CANCELLING:
            raise Lost(self._batch.id)  # the record is gone
        # Only its owner can have moved it meanwhile.
        self._cancelled = True
        self._batch = replace(self._batch, status=BatchStatus.CANCELLING)
        await self._close(BatchStatus.CANCELLED)

    def _tenant(self) -> Tenant:
        tenant = self._service.tenants.named(self._batch.tenant)
        if tenant is None:
            raise BadRequest("The tenant of this batch is no longer known.", code="unknown_tenant")
        return tenant

    def _job(self, line: int) -> str:
        return batch_lines.job_id(self._batch.id, self._batch.created_ms, line)

    def _now_ms(self) -> float:
        """The time by Redis, which the deadline is in."""
        return self._clock_ms + time.monotonic() * 1000
