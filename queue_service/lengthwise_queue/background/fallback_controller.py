"""Suspend `sjf` while the predictions are degraded, and resume it when they have recovered.

`prediction.quality.fallback_wanted` is the rule; this is the loop, which every replica of the queue
service runs. All replicas judge alike, because they judge what Redis holds.
"""

from __future__ import annotations

import logging

from lengthwise_queue.background.periodic import repeat
from lengthwise_queue.prediction import quality
from lengthwise_queue.scheduling.snapshot import QueueCache, QueueSnapshot
from lengthwise_store.store import JobStore

log = logging.getLogger(__name__)

#: The pause between two checks, s: a small GPU takes this long for 32 answers, the fewest that can
#: suspend `sjf`.
EVERY_S = 5.0


class FallbackController:
    """Checks every queue periodically. Errors are logged and do not end the loop."""

    def __init__(self, store: JobStore, queue_cache: QueueCache) -> None:
        self._store = store
        self._queue_cache = queue_cache
        self._judged: dict[str, tuple[int, bool]] = {}

    async def run(self) -> None:
        """Check every `EVERY_S`, until cancelled."""
        await repeat(self.check, every_s=EVERY_S, what="prediction quality")

    async def check(self) -> None:
        """Check every queue once.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        snapshots = await self._queue_cache.read_all()
        for snapshot in snapshots:
            await self._judge(snapshot)
        self._judged = {
            snapshot.queue.name: self._judged[snapshot.queue.name] for snapshot in snapshots
        }

    async def _judge(self, snapshot: QueueSnapshot) -> None:
        stats, name = snapshot.stats, snapshot.queue.name
        done = stats.counters.get("succeeded", 0)
        state = (done, snapshot.settings.min_rank_accuracy is None)
        if self._judged.get(name) == state:
            return  # no answer has come since the last check
        wanted = quality.fallback_wanted(
            quality.unjudged(stats, snapshot.settings),
            fallback=stats.fallback,
            settings=snapshot.settings,
        )
        if wanted is not stats.fallback:
            # Redis may not answer: then the next check judges the same answers again.
            await self._store.set_fallback(name, on=wanted, judged_at=done)
        self._judged[name] = state
        if wanted is stats.fallback:
            return
        log.warning(
            "predictions are degraded, the queue is served first come, first served"
            if wanted
            else "predictions have recovered, the queue is served short answers first",
            extra={
                "queue": name,
                "rank_accuracy": quality.rank_accuracy(quality.recent(stats, snapshot.settings)),
            },
        )
