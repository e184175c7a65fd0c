"""Find batches that no replica works on, and work on them. Started by the app.

One replica at a time works on a batch; if it dies, another takes the batch over. Everything is in
Redis, so the next replica continues at the same point: which lines are open, how far the input was
read, which results are written. `executor` is the work on one batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Coroutine

from pydantic_core import to_json

from lengthwise_queue.batches.claimed import ClaimedBatch
from lengthwise_queue.batches.executor import BatchExecutor
from lengthwise_queue.batches.results import StatusOf
from lengthwise_queue.service import Service
from lengthwise_store.batches.batch import ENDED, BatchLost, BatchStatus
from lengthwise_store.errors import StoreUnavailable

log = logging.getLogger(__name__)

#: Batches that one replica works on at once; each holds only a few lines in memory.
AT_ONCE = 16

#: When all places are taken and another batch waits, the batch with the longest turn makes room,
#: once its turn has lasted this long, s. So no batch waits until the batches of others are done.
TURN_S = 30.0

#: The pause between two looks for a batch that no replica works on, s.
POLL_S = 1.0

#: How long a batch is left alone after an unexpected error, s.
FAULT_PAUSE_S = 5.0

#: After this many such errors without progress between them, the batch is ended.
MAX_FAULTS = 5

#: How long the process may take to release its leases when it stops, s.
RELEASE_S = 1.0


_FAULTY = to_json(
    [
        {
            "code": "internal_error",
            "line": None,
            "message": f"The batch was ended after {MAX_FAULTS} unexpected errors. Its files have "
            "the results so far; the log of the queue service has the errors, under the batch's "
            "id. Create a new batch of the other requests.",
            "param": None,
        }
    ]
)


class BatchRunner:
    """The batches that this replica works on.

    Args:
        service: This app's.
        status_of: Returns the HTTP status of an error, for the results.
    """

    def __init__(self, service: Service, status_of: StatusOf) -> None:
        self._service = service
        self._status_of = status_of
        self._work: dict[str, asyncio.Task[None]] = {}
        self._started_s: dict[str, float] = {}  #: When each turn started, the earliest first.
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to look for batches."""
        self._task = asyncio.create_task(self._poll(), name="batch-runner")

    async def aclose(self) -> None:
        """Stop, and release the batches so that other replicas continue at once."""
        tasks = [*self._work.values()] + ([] if self._task is None else [self._task])
        held = list(self._work)
        await _end(tasks)
        try:
            async with asyncio.timeout(RELEASE_S):
                for batch_id in held:
                    await self._service.batches.release(batch_id)
        except (StoreUnavailable, TimeoutError):
            log.info("batches not released, their leases will expire", extra={"batches": held})

    async def _poll(self) -> None:
        service = self._service
        while True:
            try:
                await self._make_room()
                while len(self._work) < AT_ONCE:
                    batch_id = await service.batches.take()
                    if batch_id is None:
                        break
                    if batch_id not in self._work:  # else it stalled: its own heartbeat finds out
                        self._start(batch_id)
            except StoreUnavailable:
                pass  # the next poll is soon enough
            except Exception:
                log.exception("the search for batches failed")
            service.batch_made.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await service.batch_made.wait()

    async def _make_room(self) -> None:
        """End the longest turn if a batch waits for one."""
        if len(self._work) < AT_ONCE:
            return
        longest, started_s = next(iter(self._started_s.items()))
        if time.monotonic() - started_s < TURN_S or not await self._service.batches.waiting():
            return
        await _end([self._work[longest]])
        await self._service.batches.release(longest)  # behind those that wait
        log.info("batch makes room for another", extra={"batch_id": longest})

    def _start(self, batch_id: str) -> None:
        task = asyncio.create_task(self._execute(batch_id), name=f"batch {batch_id}")
        self._work[batch_id] = task
        self._started_s[batch_id] = time.monotonic()
        task.add_done_callback(lambda _: self._done(batch_id))

    def _done(self, batch_id: str) -> None:
        del self._work[batch_id], self._started_s[batch_id]

    async def _execute(self, batch_id: str) -> None:
        """Work on one batch until it has ended, is lost, or an error stops the work."""
        store, nonce = self._service.batches, uuid.uuid4().hex
        ids = {"batch_id": batch_id}
        executor: BatchExecutor | None = None
        try:
            now_ms, record = await store.acquire(batch_id, nonce)
            if record is None or record.status in ENDED:
                await store.end(batch_id)
                return
            log.info("batch taken", extra=ids | {"status": record.status})
            executor = BatchExecutor(
                ClaimedBatch(self._service, record, nonce, now_ms), self._status_of
            )
            await self._holding(batch_id, nonce, executor, executor.run())
            await store.end(batch_id)
            log.info("batch ended", extra=ids | {"status": executor.status})
        except* BatchLost:
            log.warning("batch lost to another replica", extra=ids)
        except* StoreUnavailable:
            log.warning("Redis does not answer, the batch is left to its lease", extra=ids)
        except* Exception:
            # The outermost frame of one batch: an error in it must not stop the others.
            log.exception("unexpected error in a batch", extra=ids)
            await self._after_fault(batch_id, nonce, executor)

    async def _after_fault(self, batch_id: str, nonce: str, executor: BatchExecutor | None) -> None:
        """Let the batch be tried again after a pause, or end it if it never gets further.

        Args:
            batch_id: The batch.
            nonce: Of this replica's lease.
            executor: Its executor; None: its record could not be read.
        """
        store, ids = self._service.batches, {"batch_id": batch_id}
        try:
            if await store.fault(batch_id, nonce) < MAX_FAULTS:
                await asyncio.sleep(FAULT_PAUSE_S)
                return
            log.error("batch given up", extra=ids | {"faults": MAX_FAULTS})
            try:
                if executor is not None:
                    await self._holding(batch_id, nonce, executor, executor.give_up(_FAULTY))
            except* StoreUnavailable:
                raise
            except* Exception:
                log.exception("the jobs of a batch cannot be withdrawn", extra=ids)
            await store.give_up(batch_id, nonce, _FAULTY)
            await store.end(batch_id)
        except* (BatchLost, StoreUnavailable):
            log.warning("batch left to its lease", extra=ids)
        except* Exception:
            # Not even its record can be written: it must not come back every few seconds.
            log.exception("batch dropped", extra=ids)
            with contextlib.suppress(StoreUnavailable):
                await store.end(batch_id)

    async def _holding(
        self,
        batch_id: str,
        nonce: str,
        executor: BatchExecutor,
        work: Coroutine[object, object, None],
    ) -> None:
        """Do some work on a batch, and keep the lease on it meanwhile."""
        done = asyncio.Event()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._beat(batch_id, nonce, executor, done))
            try:
                await work
            finally:
                done.set()

    async def _beat(
        self, batch_id: str, nonce: str, executor: BatchExecutor, done: asyncio.Event
    ) -> None:
        # The event ends it, not only a cancellation: redis-py can swallow a cancellation that meets
        # a reply, and a group cancels its tasks only once. Then the batch never ended.
        while not done.is_set():
            try:
                status = await self._service.batches.beat(batch_id, nonce)
            except StoreUnavailable:
                pass  # the work waits for the store as well; the lease may outlive the outage
            else:
                if status is BatchStatus.CANCELLING:
                    executor.cancel()
            # A third of the lease, so that two heartbeats may be lost; and short, so that a
            # cancellation is noticed soon.
            pause_s = min(self._service.batches.lease_ms / 3000, POLL_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await done.wait()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks until they end: redis-py can swallow a cancellation that meets a reply."""
    rest = {task for task in tasks if not task.done()}
    while rest:
        for task in rest:
            task.cancel()
        _, rest = await asyncio.wait(rest, timeout=0.5)
