"""Tells the store of the jobs that ended, several in one round trip, and refills their slots in it.

Between job_run.py, which ends one job, and the store. Jobs that end in the same turn of the event
loop are reported together, and one claim behind them takes a new job for each slot: a claim of
sixteen costs Redis little more than half of sixteen claims (docs/research/experiments.md). A job
that ends
alone is reported at once. Two reports are under way at most, so that Redis works on one while the
jobs of the other run; what ends meanwhile waits, and goes as one. One object for each store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from lengthwise_contract.states import JobState
from lengthwise_store.jobs import Claim, Completion
from lengthwise_store.store import JobStore

#: Jobs of one round trip: half of the slots, within these. Eight cost Redis a tenth more a job, 32
#: a tenth less; but all slots at once leave the worker idle while Redis works, and Redis while the
#: worker does (docs/research/experiments.md). A script of 256 ends holds the server for some 5 ms.
_LEAST, _MOST = 16, 256

#: Reports under way at once.
_UNDER_WAY = 2


class CompletionBatcher:
    """See the module.

    Args:
        store: Whom to tell.
        queue: Of which queue.
        worker_id: Who claims.
        slots: Jobs that may run at once.
        may_claim: Whether the slot of a job that ends may go to the next job; asked at every send.
        begin: Given the claimed jobs, before those that ended hear of it.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        queue: str,
        worker_id: str,
        slots: int,
        may_claim: Callable[[], bool],
        begin: Callable[[Sequence[Claim]], None],
    ) -> None:
        self.store = store
        self._queue, self._worker_id = queue, worker_id
        self._may_claim, self._begin = may_claim, begin
        self._waiting: list[tuple[Completion, asyncio.Future[JobState | None], bool]] = []
        self._together = min(_MOST, max(_LEAST, slots // 2))
        self._sending: set[asyncio.Task[None]] = set()
        self._senders = 0

    async def end(self, ending: Completion, *, claim: bool) -> JobState | None:
        """Report the end of a claim; the job's state afterwards, None: the lease was lost.

        Args:
            ending: What became of it.
            claim: Take a job for its slot. False for a repeated report: the claim of the first
                one may have been carried out, and nobody would ever learn of those jobs.

        Raises:
            StoreUnavailable: The store did not answer; repeating the report is safe.
        """
        heard: asyncio.Future[JobState | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((ending, heard, claim))
        if self._senders < _UNDER_WAY:
            self._senders += 1
            # Its turn comes behind the jobs that end in this one, and so it takes them along.
            task = asyncio.create_task(self._send_waiting())
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        return await heard

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[: self._together]
                del self._waiting[: self._together]
                await self._send(batch)
        finally:
            self._senders -= 1  # in the turn of the last look: what ends in the next is seen

    async def _send(
        self, batch: Sequence[tuple[Completion, asyncio.Future[JobState | None], bool]]
    ) -> None:
        wanted = sum(claim for _, _, claim in batch) if self._may_claim() else 0
        try:
            states, claims = await self.store.finish_all(
                self._queue,
                [ending for ending, _, _ in batch],
                worker_id=self._worker_id,
                claim_next=wanted,
            )
            self._begin(claims)
        except Exception as exc:
            for _, heard, _ in batch:
                if not heard.done():
                    heard.set_exception(exc)
            return
        for (_, heard, _), state in zip(batch, states, strict=True):
            if not heard.done():
                heard.set_result(state)
