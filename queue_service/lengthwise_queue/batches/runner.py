"""Works on batches: one replica on each at a time, another where it dies. Started by the app.

Everything is in Redis, so whoever takes a batch goes on where it stands: which lines are begun, how
far the input was read, which results are written. `batch_work` is the work on one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid

from lengthwise_queue.batches.executor import BatchWork
from lengthwise_queue.batches.results import StatusOf
from lengthwise_queue.service import Service
from lengthwise_store.batches.store import ENDED, BatchStatus, Lost
from lengthwise_store.errors import StoreUnavailable

log = logging.getLogger(__name__)

#: Batches that one replica works on at once; each holds at most some lines in memory.
AT_ONCE = 16

#: When all are busy and another batch waits, the one that was worked on longest, and at least so
#: long, makes room, s: nobody's batches wait until somebody else's are done.
TURN_S = 30.0

#: How often a replica looks for a batch that nobody works on, s.
LOOK_S = 1.0

#: A batch at which we failed is left alone for so long, s.
FAULT_PAUSE_S = 5.0

#: How long the leases may take to be given back when the process stops, s.
RELEASE_S = 1.0


class BatchRunner:
    """The batches that this replica works on."""

    def __init__(self, service: Service, status_of: StatusOf) -> None:
        """Nothing runs yet.

        Args:
            service: This app's.
            status_of: The HTTP status of an error, for the results.
        """
        self._service = service
        self._status_of = status_of
        self._works: dict[str, asyncio.Task[None]] = {}
        self._begun_s: dict[str, float] = {}  #: When each was begun, the longest ago first.
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look for work from now on."""
        self._task = asyncio.create_task(self._look(), name="batch-runner")

    async def aclose(self) -> None:
        """Stop, and let other replicas go on at once."""
        tasks = [*self._works.values()] + ([] if self._task is None else [self._task])
        held = list(self._works)
        await _end(tasks)
        try:
            async with asyncio.timeout(RELEASE_S):
                for batch_id in held:
                    await self._service.batches.release(batch_id)
        except (StoreUnavailable, TimeoutError):
            log.info("batches left to their leases", extra={"batches": held})

    async def _look(self) -> None:
        service = self._service
        while True:
            try:
                await self._make_room()
                while len(self._works) < AT_ONCE:
                    batch_id = await service.batches.take()
                    if batch_id is None:
                        break
                    if batch_id not in self._works:  # else it stalled: its own beat will tell
                        self._begin(batch_id)
            except StoreUnavailable:
                pass  # the next look is soon enough
            except Exception:
                log.exception("batches cannot be looked for")
            service.batch_made.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await service.batch_made.wait()

    async def _make_room(self) -> None:
        """Let a batch that waits have its turn."""
        if len(self._works) < AT_ONCE:
            return
        longest, begun_s = next(iter(self._begun_s.items()))
        if time.monotonic() - begun_s < TURN_S or not await self._service.batches.waiting():
            return
        await _end([self._works[longest]])
        await self._service.batches.release(longest)  # behind those that wait
        log.info("batch makes room for another", extra={"batch_id": longest})

    def _begin(self, batch_id: str) -> None:
        task = asyncio.create_task(self._work(batch_id), name=f"batch {batch_id}")
        self._works[batch_id] = task
        self._begun_s[batch_id] = time.monotonic()
        task.add_done_callback(lambda _: self._done(batch_id))

    def _done(self, batch_id: str) -> None:
        del self._works[batch_id], self._begun_s[batch_id]

    async def _work(self, batch_id: str) -> None:
        """Work on one batch until it has ended, is lost, or is beyond us."""
        store, nonce = self._service.batches, uuid.uuid4().hex
        ids = {"batch_id": batch_id}
        try:
            now_ms, batch = await store.seize(batch_id, nonce)
            if batch is None or batch.status in ENDED:
                await store.end(batch_id)
                return
            log.info("batch taken", extra=ids | {"status": batch.status})
            work = BatchWork(self._service, batch, nonce, now_ms, self._status_of)
            done = asyncio.Event()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._beat(batch_id, nonce, work, done))
                try:
                    await work.run()
                finally:
                    done.set()
            await store.end(batch_id)
            log.info("batch ended", extra=ids | {"status": work.status})
        except* Lost:
            log.warning("batch lost to another replica", extra=ids)
        except* StoreUnavailable:
            log.warning("batch left to its lease: the store is away", extra=ids)
        except* Exception:
            # The outermost frame of one batch: a fault of ours must not take the others with it.
            log.exception("fault in a batch; it is tried again", extra=ids)
            await asyncio.sleep(FAULT_PAUSE_S)

    async def _beat(self, batch_id: str, nonce: str, work: BatchWork, done: asyncio.Event) -> None:
        # Ends by the event and not by a cancellation alone: redis-py can swallow one that meets a
        # reply, and a group cancels its tasks only once. Seen as a batch that never ended.
        while not done.is_set():
            try:
                status = await self._service.batches.beat(batch_id, nonce)
            except StoreUnavailable:
                pass  # the work waits for the store as well; the lease may outlive the outage
            else:
                if status is BatchStatus.CANCELLING:
                    work.cancel()
            # A third of the lease, so that two beats may be lost; and a cancellation is heard soon.
            pause_s = min(self._service.batches.lease_ms / 3000, LOOK_S)
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
