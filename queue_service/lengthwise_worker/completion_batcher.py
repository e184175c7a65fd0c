"""Reports completed jobs to the store, several in one round trip, and refills their slots.

It stands between job_run.py, which completes one job, and the store. Jobs that complete in the same
turn of the event loop are reported together, and one claim behind them takes a new job for each
slot: a claim of sixteen costs Redis little more than half of sixteen claims
(docs/research/experiments.md). A job that completes alone is reported at once. At most two reports
are in flight, so that Redis works on one while the jobs of the other run; jobs that complete
meanwhile wait and go together. One object for each store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from lengthwise_contract.states import JobState
from lengthwise_store.jobs import Claim, Completion
from lengthwise_store.store import JobStore

#: Jobs of one round trip: half of the slots, within these bounds. Eight cost Redis a tenth more a
#: job, 32 a tenth less. All slots at once would leave the worker idle while Redis works, and Redis
#: idle while the worker does (docs/research/experiments.md). A script of 256 completions holds the
#: server for about 5 ms.
_LEAST, _MOST = 16, 256

#: Bytes of one round trip, unless one answer has more: Redis closes a connection that sends a GB.
_MOST_BYTES = 8 * 1024 * 1024

#: Reports in flight at once.
_IN_FLIGHT = 2


class CompletionBatcher:
    """Reports the completions of one worker to one store.

    Args:
        store: Where to report. queue: The queue of the jobs. worker_id: The worker that claims.
        slots: Jobs that may run at once. room: How many jobs may be claimed for the slots of
        completed jobs, whose number it gets; called at every report. start: Starts the claimed
        jobs, before the callers of `complete` get their replies.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        queue: str,
        worker_id: str,
        slots: int,
        room: Callable[[int], int],
        start: Callable[[Sequence[Claim]], None],
    ) -> None:
        self.store = store
        self._queue, self._worker_id = queue, worker_id
        self._room, self._start = room, start
        self._waiting: list[tuple[Completion, asyncio.Future[JobState | None], bool]] = []
        self._together = min(_MOST, max(_LEAST, slots // 2))
        self._sending: set[asyncio.Task[None]] = set()
        self._senders = 0

    async def complete(self, completion: Completion, *, claim: bool) -> JobState | None:
        """Report the end of a claim; the job's state afterwards, None: the lease was lost.

        Args:
            completion: How the claim ended.
            claim: Claim a job for its slot. False for a repeated report: the claim of the first
                report may have been carried out, and those jobs would stay without a worker.

        Raises:
            StoreUnavailable: The store did not answer; repeating the report is safe.
        """
        reply: asyncio.Future[JobState | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((completion, reply, claim))
        if self._senders < _IN_FLIGHT:
            self._senders += 1
            # It runs after the jobs that complete in this turn, and so reports them too.
            task = asyncio.create_task(self._send_waiting())
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        return await reply

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                count = self._next_count()
                batch = self._waiting[:count]
                del self._waiting[:count]
                await self._send(batch)
        finally:
            self._senders -= (
                1  # in the turn of the last check: a job that completes in the next one is seen
            )

    def _next_count(self) -> int:
        """Return how many of the waiting jobs go together: at least one."""
        size = 0
        for count, (completion, _, _) in enumerate(self._waiting[: self._together]):
            size += sum(map(len, completion.chunks))
            if count and size > _MOST_BYTES:
                return count
        return self._together

    async def _send(
        self, batch: Sequence[tuple[Completion, asyncio.Future[JobState | None], bool]]
    ) -> None:
        wanted = min(sum(claim for _, _, claim in batch), self._room(len(batch)))
        try:
            states, claims = await self.store.finish_all(
                self._queue,
                [completion for completion, _, _ in batch],
                worker_id=self._worker_id,
                claim_next=wanted,
            )
            self._start(claims)
        except Exception as exc:
            for _, reply, _ in batch:
                if not reply.done():
                    reply.set_exception(exc)
            return
        for (_, reply, _), state in zip(batch, states, strict=True):
            if not reply.done():
                reply.set_result(state)
