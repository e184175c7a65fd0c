"""Lets time pass for queues that no worker serves, which a queue's workers do where there are any.

Nobody's tick, nobody's time: a delay would never end, so that an autoscaler at zero replicas saw no
work; a deadline would never pass, and a client wait for ever; workers that ended would be counted
as if they served. Every replica of the queue service looks; the store sees to it that one ticks.
"""

from __future__ import annotations

import logging

from lengthwise_queue.background.periodic import repeat
from lengthwise_store.jobs import QueueStats
from lengthwise_store.store import JobStore

log = logging.getLogger(__name__)

#: Between two looks, s; so much later a delay or a deadline of such a queue may end.
EVERY_S = 5.0

#: Workers that were silent for two beats do not tick either, ms.
SILENT_MS = 10_000.0


class IdleQueueTicker:
    """Ticks the queues without a worker, for ever; its errors are logged, and end nothing."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    async def run(self) -> None:
        """Look every `EVERY_S`, until cancelled."""
        await repeat(self.look, every_s=EVERY_S, what="unattended queues")

    async def look(self) -> None:
        """One look at every queue.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        for queue in await self._store.queues():
            if _attended(await self._store.stats(queue.name)):
                continue
            report = await self._store.tick(queue.name)
            if report is not None and (moved := {k: v for k, v in vars(report).items() if v}):
                log.info("tick without a worker", extra={"queue": queue.name} | moved)


def _attended(stats: QueueStats) -> bool:
    return any(stats.now_ms - worker.seen_ms < SILENT_MS for worker in stats.workers)
