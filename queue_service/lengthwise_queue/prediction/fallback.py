"""Suspends short-first while the predictions are useless, and takes it up again when they are not.

`quality.next_fallback` is the pure rule; `FallbackController` is the loop, which every replica runs.
They all come to the same verdict, because what they judge lies in Redis.
"""

from __future__ import annotations

import logging

from lengthwise_queue.background.periodic import repeat
from lengthwise_queue.prediction import quality
from lengthwise_queue.scheduling.snapshot import QueueCache, QueueSnapshot
from lengthwise_store.store import JobStore

log = logging.getLogger(__name__)

#: Between two looks, s: as long as 32 answers, the fewest that condemn, take a small GPU.
EVERY_S = 5.0


class FallbackController:
    """Looks at every queue, for ever; its errors are logged, and end nothing."""

    def __init__(self, store: JobStore, book: QueueCache) -> None:
        self._store = store
        self._book = book
        self._seen: dict[str, tuple[int, bool]] = {}

    async def run(self) -> None:
        """Look every `EVERY_S`, until cancelled."""
        await repeat(self.look, every_s=EVERY_S, what="rank watch")

    async def look(self) -> None:
        """One look at every queue.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        snapshots = await self._book.read_all()
        for snapshot in snapshots:
            await self._judge(snapshot)
        self._seen = {
            snapshot.queue.name: self._seen[snapshot.queue.name] for snapshot in snapshots
        }

    async def _judge(self, snapshot: QueueSnapshot) -> None:
        stats, name = snapshot.stats, snapshot.queue.name
        done = stats.counters.get("succeeded", 0)
        news = (done, snapshot.settings.min_rank_accuracy is None)
        if self._seen.get(name) == news:
            return  # no answer has come since the last look
        self._seen[name] = news
        wanted = quality.fallback_wanted(
            quality.unjudged(stats, snapshot.settings),
            fallback=stats.fallback,
            settings=snapshot.settings,
        )
        if wanted is stats.fallback:
            return
        await self._store.set_fallback(name, on=wanted, judged_at=done)
        log.warning(
            "predictions are useless, serving first come first served"
            if wanted
            else "predictions are good again, serving short first",
            extra={
                "queue": name,
                "rank_accuracy": quality.rank_accuracy(quality.recent(stats, snapshot.settings)),
            },
        )
