"""Keeps (request, length) of answered jobs for training, where the queue is set to `record_rows`.

Off unless an admin turns it on, for it keeps prompts. Beside the work, never in its way: rows are
gathered and written once a second; what the store does not take in time is dropped, oldest first.
Called by worker.py.
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

#: Between two writes, and between two looks at the queue's settings, s.
_WRITE_S, _LOOK_S = 1.0, 10.0

#: Longest row that is kept, bytes: a predictor reads 16,384 characters.
_LONGEST = 32 * 1024

#: Rows that wait for the store at most.
_MOST_WAITING = 1000


class Recorder:
    """See the module; one for each worker."""

    def __init__(self, queue: str) -> None:
        """`queue`: whose jobs it is told of."""
        self._queue = queue
        self._rows: deque[bytes] = deque(maxlen=_MOST_WAITING)
        self._most, self._ttl_ms = 0, 1
        self.looked = asyncio.Event()  #: Set once the settings are known.

    def succeeded(self, claim: Claim, outcome: Outcome) -> None:
        """Hear that a job was answered."""
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
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace")
        if len(line) <= _LONGEST:
            self._rows.append(line)

    async def run(self, store: JobStore) -> None:
        """Follow the settings and write what there is, until cancelled."""
        loop = asyncio.get_running_loop()
        looked_s = float("-inf")
        try:
            while True:
                try:
                    if loop.time() - looked_s >= _LOOK_S:
                        await self._look(store)
                        looked_s = loop.time()
                    await self._write(store)
                except StoreUnavailable:
                    log.debug("record not written: the store is away")
                except Exception:
                    # An ACL without XTRIM, for one: no reason to stop answering.
                    log.exception("record not written", extra={"queue": self._queue})
                    self._rows.clear()
                await asyncio.sleep(_WRITE_S)
        finally:
            try:
                await self._write(store)
            except StoreUnavailable:
                log.debug("last rows of the record lost: the store is away")

    async def _look(self, store: JobStore) -> None:
        queue = await store.queue(self._queue)
        before, self._most = self._most, 0 if queue is None else queue.settings.record_rows
        if queue is not None:
            self._ttl_ms = queue.settings.record_ttl_ms
        if before and not self._most:
            self._rows.clear()
            # What was written since it was turned off must not stay behind.
            await store.delete_training_rows(self._queue)
        self.looked.set()

    async def _write(self, store: JobStore) -> None:
        if not self._rows or not self._most:
            return
        rows = list(self._rows)
        await store.append_training_rows(self._queue, rows, most=self._most, ttl_ms=self._ttl_ms)
        for _ in rows:
            self._rows.popleft()
