"""Suspends short-first while the predictions are useless, and takes it up again when they are not.

`fallback_wanted` is the rule, pure; `RankWatch` is the loop that every replica of the queue
service runs. They all come to the same verdict, because what they judge lies in Redis.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from lengthwise_contract.api import QueueSettings
from lengthwise_queue.accuracy import pair_accuracy
from lengthwise_queue.errors import StoreUnavailable
from lengthwise_queue.queue_book import QueueBook
from lengthwise_queue.store import JobStore

log = logging.getLogger(__name__)

#: Between two looks, s. Half of the 256 answers that are judged must be new ones before a verdict
#: can turn, which takes longer than this on any GPU we know.
EVERY_S = 5.0

#: Answers needed for a verdict. 64 of a coin score 0.5 with a standard deviation of 0.04.
MIN_ANSWERS = 64

#: How far above the limit the accuracy must be before short-first is trusted again: twice the
#: standard deviation of 256 answers (0.02), so that the verdict does not flap.
RECOVERY = 0.04


def fallback_wanted(
    lengths: Sequence[tuple[float | None, int]], *, fallback: bool, settings: QueueSettings
) -> bool:
    """Whether a queue should be served in order of acceptance for want of good predictions.

    Args:
        lengths: Of the last answers: predicted (None: assumed) and actual output tokens.
        fallback: Whether it is so served now.
        settings: The queue's; `min_rank_accuracy` is the limit.

    Returns:
        As it is now, while too few answers had a prediction to tell.
    """
    if settings.min_rank_accuracy is None:
        return False
    if sum(predicted is not None for predicted, _ in lengths) < MIN_ANSWERS:
        return fallback
    accuracy = pair_accuracy(lengths)
    if accuracy is None:
        return fallback
    return accuracy < settings.min_rank_accuracy + (RECOVERY if fallback else 0.0)


class RankWatch:
    """Looks at every queue, for ever; its errors are logged, and end nothing."""

    def __init__(self, store: JobStore, book: QueueBook) -> None:
        self._store = store
        self._book = book

    async def run(self) -> None:
        """Look every `EVERY_S`, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except StoreUnavailable:
                log.debug("rank watch: the store is away")
            except Exception:
                log.exception("rank watch failed")

    async def look(self) -> None:
        """One look at every queue.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        for page in await self._book.read_all():
            stats, name = page.stats, page.queue.name
            wanted = fallback_wanted(stats.lengths, fallback=stats.fallback, settings=page.settings)
            if wanted is stats.fallback:
                continue
            await self._store.set_fallback(name, on=wanted)
            log.warning(
                "predictions are useless, serving first come first served"
                if wanted
                else "predictions are good again, serving short first",
                extra={"queue": name, "rank_accuracy": pair_accuracy(stats.lengths)},
            )
