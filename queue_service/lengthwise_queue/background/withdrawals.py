"""Cancel jobs that no client waits for, also when Redis is away for minutes.

A client that disconnects, or that gets an error in place of its answer, leaves a job behind. Nobody
would read its answer. The list of such jobs is in this process's memory: it is lost with the
process (docs/operate/guarantees.md). Called by `submit` and by the trackers of requests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from lengthwise_contract.states import JobState
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.store import JobStore

log = logging.getLogger(__name__)

#: Most jobs on the list. About 400 bytes each, so 40 MB; more are left to run.
MOST = 100_000

#: Jobs that are cancelled at once. While Redis is away, one is tried.
TOGETHER = 100

#: Pause between two tries while Redis is away, s.
AWAY_PAUSE_S = 0.25

#: A job that was not found is looked for once more after this time, s. Redis may have been stopped
#: with the submit unread in a socket; then the cancellation can overtake it.
SECOND_LOOK_S = 2.0

#: A job stays on the list for this long beyond its lifetime, s. Then it has expired by itself.
SPARE_S = 60.0

#: How long `aclose` waits for the list to become empty, s.
CLOSE_S = 2.0


class Withdrawal(StrEnum):
    """How the withdrawal of a job ended; the label `outcome` of its metric."""

    WITHDRAWN = "withdrawn"  #: It is cancelled; if it was running, its worker aborts it.
    ENDED = "ended"  #: It had ended before.
    NOT_FOUND = "not_found"  #: It was never stored.
    GAVE_UP = "gave_up"  #: It may run: its lifetime is over, the list is full, or we stop.


@dataclass(kw_only=True)
class _Entry:
    queue: str
    job_id: str
    reason: str
    until_s: float  #: Monotonic.
    not_before_s: float = 0.0  #: Monotonic.
    looked: bool = False


class Withdrawals:
    """The jobs of one process that are still to be cancelled.

    Args:
        store: Where the jobs are.
        count: Called with the outcome of each.
    """

    def __init__(self, store: JobStore, count: Callable[[Withdrawal], None]) -> None:
        self._store = store
        self._count = count
        self._entries: dict[str, _Entry] = {}
        self._task: asyncio.Task[None] | None = None
        self._added = asyncio.Event()

    def __len__(self) -> int:
        """Return how many jobs are still to be cancelled."""
        return len(self._entries)

    def add(self, queue: str, job_id: str, *, lifetime_ms: float, reason: str) -> None:
        """Cancel a job now, or as soon as Redis answers.

        Args:
            queue: The job's.
            job_id: The job's.
            lifetime_ms: From its submission to its deadline.
            reason: Why no client waits for it, for the log.
        """
        until_s = time.monotonic() + lifetime_ms / 1000 + SPARE_S
        entry = _Entry(queue=queue, job_id=job_id, reason=reason, until_s=until_s)
        if len(self._entries) >= MOST:
            self._end(entry, Withdrawal.GAVE_UP)
            return
        self._entries[job_id] = entry
        self._added.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="withdrawals")

    async def aclose(self) -> None:
        """Wait `CLOSE_S` for the rest of the jobs, then stop."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSE_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for entry in list(self._entries.values()):
            self._end(entry, Withdrawal.GAVE_UP)

    async def _work(self) -> None:
        away = False
        while self._entries:
            self._added.clear()
            now_s = time.monotonic()
            ready = [e for e in self._entries.values() if e.not_before_s <= now_s]
            if not ready:
                pause_s = min(e.not_before_s for e in self._entries.values()) - now_s
                try:
                    await asyncio.wait_for(self._added.wait(), pause_s)
                except TimeoutError:
                    continue
                continue
            batch = ready[: 1 if away else TOGETHER]
            away = not all(await asyncio.gather(*map(self._cancel, batch)))
            if away:
                for entry in [e for e in ready if e.until_s < now_s]:
                    self._end(entry, Withdrawal.GAVE_UP)
                await asyncio.sleep(AWAY_PAUSE_S)

    async def _cancel(self, entry: _Entry) -> bool:
        """Try to cancel one job; False: Redis did not answer."""
        try:
            state = await self._store.cancel(entry.queue, entry.job_id)
        except StoreUnavailable:
            return False
        except Exception:
            # One damaged record must not keep the other jobs on the list.
            log.exception("job not withdrawn", extra={"job_id": entry.job_id})
            self._end(entry, Withdrawal.GAVE_UP)
            return True
        if state is None and not entry.looked:
            entry.looked, entry.not_before_s = True, time.monotonic() + SECOND_LOOK_S
        elif state is None:
            self._end(entry, Withdrawal.NOT_FOUND)
        elif state in (JobState.CANCELLED, JobState.RUNNING):
            self._end(entry, Withdrawal.WITHDRAWN)
        else:
            self._end(entry, Withdrawal.ENDED)
        return True

    def _end(self, entry: _Entry, outcome: Withdrawal) -> None:
        self._entries.pop(entry.job_id, None)
        self._count(outcome)
        level = logging.WARNING if outcome is Withdrawal.GAVE_UP else logging.INFO
        ids = {"job_id": entry.job_id, "queue": entry.queue, "reason": entry.reason}
        log.log(level, "withdrawal of a job", extra={**ids, "outcome": outcome.value})
