"""The state of a batch that this replica works on. Shared by `executor` and `line_jobs`."""

from __future__ import annotations

import time
from dataclasses import replace

from lengthwise_queue.batches import lines
from lengthwise_queue.batches.lines import InputLine, LineRequest
from lengthwise_queue.errors import BadRequest
from lengthwise_queue.service import Service
from lengthwise_queue.tenants.tenant import Tenant
from lengthwise_store.batches.batch import Batch, BatchStatus, OpenLine, Place


class ClaimedBatch:
    """The record of a batch as this replica knows it, and the clock of Redis.

    Args:
        service: This app's.
        record: The batch when it was taken.
        nonce: Of the lease on it.
        now_ms: The time then, by Redis, ms since the epoch.
    """

    def __init__(self, service: Service, record: Batch, nonce: str, now_ms: int) -> None:
        self.service = service
        self.record = record
        self.nonce = nonce
        self.cancelled = record.status is BatchStatus.CANCELLING  #: Its owner cancelled it.
        # The limit under which the batch was accepted: the process may have a lower one by now.
        longest = record.max_body_bytes or service.settings.max_body_bytes
        self.max_line = longest + lines.LINE_OVERHEAD_BYTES
        self._clock_ms = now_ms - time.monotonic() * 1000

    @property
    def queue(self) -> str:
        """The queue of its jobs; "" before the input was checked."""
        return self.record.model or ""

    def tenant(self) -> Tenant:
        """Return the owner.

        Raises:
            BadRequest: There is no such tenant any more.
        """
        tenant = self.service.tenants.named(self.record.tenant)
        if tenant is None:
            raise BadRequest("The tenant of this batch no longer exists.", code="unknown_tenant")
        return tenant

    def parse(self, line: InputLine) -> LineRequest:
        """Parse a line of the input.

        Raises:
            BadLine: It requests nothing that this batch can do.
        """
        return lines.parse(line, self.record.endpoint, self.max_line)

    def opened(self, line: InputLine) -> OpenLine:
        """Make the record of a line that is started; it need not be valid."""
        return OpenLine(place=line.place, custom_id=lines.custom_id(line))

    def job_id(self, line: int) -> str:
        """Return the id of a line's job."""
        return lines.job_id(self.record.id, self.record.created_ms, line)

    def now_ms(self) -> float:
        """Return the time by Redis, ms since the epoch. The batch's deadline is in this time."""
        return self._clock_ms + time.monotonic() * 1000

    def set_status(self, status: BatchStatus) -> None:
        """Record a status that Redis has already."""
        self.record = replace(self.record, status=status)

    def set_cursor(self, cursor: Place) -> None:
        """Record how far the input was read, as Redis has it already."""
        self.record = replace(self.record, cursor=cursor)
