"""Keeps (request, length) of answered jobs for training, if the queue is set to `record_rows`.

Off unless an administrator turns it on, because it stores prompts. It never delays a job: rows are
gathered and written once a second, and rows that the store does not take in time are dropped, the
oldest first. Called by worker.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque

from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import Claim, Outcome
from lengthwise_store.store import JobStore
from lengthwise_store.training_log import length_row, read_request

log = logging.getLogger(__name__)

#: Between two writes, and between two reads of the queue's settings, s.
_WRITE_S, _SETTINGS_S = 1.0, 10.0

#: Longest row that is kept, bytes: a predictor reads 16,384 characters.
_LONGEST = 32 * 1024

#: Rows that wait for the store at most.
MOST_WAITING = 1000


class Recorder:
    """Gathers the rows of one worker, and writes them to the training log."""

    def __init__(self, queue: str) -> None:
        """`queue`: the queue of the worker."""
        self._queue = queue
        self._rows: deque[bytes] = deque(maxlen=MOST_WAITING)
        self._most, self._ttl_ms = 0, 1
        self.settings_known = asyncio.Event()

    @property
    def waiting(self) -> int:
        """The number of rows that are not written yet."""
        return len(self._rows)

    def job_succeeded(self, claim: Claim, outcome: Outcome) -> None:
        """Take the row of an answered job."""
        if not self._most:
            return
        request = read_request(claim.body)
        if request is None:
            return
        row = length_row(
            claim.lease.job_id,
            self._queue,
            request,
            output_tokens=outcome.output_tokens,
            prompt_tokens=outcome.prompt_tokens,
        )
        if row is None:
            return
        text = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace")
        if len(text) <= _LONGEST:
            self._rows.append(text)

    async def run(self, store: JobStore) -> None:
        """Read the settings and write rows again and again, until cancelled."""
        loop = asyncio.get_running_loop()
        read_s = float("-inf")
        try:
            while True:
                try:
                    if loop.time() - read_s >= _SETTINGS_S:
                        await self.read_settings(store)
                        read_s = loop.time()
                    await self._write(store)
                except StoreUnavailable:
                    log.debug("training rows not written: the store is unavailable")
                except Exception:
                    # For example an ACL without XTRIM: no reason to stop answering.
                    log.exception("training rows not written", extra={"queue": self._queue})
                    self._rows.clear()
                await asyncio.sleep(_WRITE_S)
        finally:
            try:
                await self._write(store)
            except StoreUnavailable:
                log.debug("last training rows lost: the store is unavailable")

    async def read_settings(self, store: JobStore) -> None:
        """Read whether the queue keeps rows, and delete the log if that was turned off."""
        queue = await store.queue(self._queue)
        before, self._most = self._most, 0 if queue is None else queue.settings.record_rows
        if queue is not None:
            self._ttl_ms = queue.settings.record_ttl_ms
        if before and not self._most:
            self._rows.clear()
            # Rows that were written after it was turned off must not stay.
            await store.delete_training_rows(self._queue)
        self.settings_known.set()

    async def _write(self, store: JobStore) -> None:
        if not self._rows or not self._most:
            return
        rows = list(self._rows)
        await store.append_training_rows(self._queue, rows, most=self._most, ttl_ms=self._ttl_ms)
        for _ in rows:
            self._rows.popleft()
