"""Keep in memory what each queue learned, and read it from Redis when another fit is published."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine

from lengthwise_learning.learned import Learned
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.learning.store import LearningStore
from lengthwise_store.prediction_record import FitRecord

log = logging.getLogger(__name__)

#: Queues whose fits are in memory, about 3 MB each; of more, those used last.
MOST_FITS = 64


class LearnedFits:
    """What the queues learned, in memory. It is read and never computed: replicas do not differ."""

    def __init__(
        self,
        store: LearningStore,
        start: Callable[[Coroutine[object, object, None]], None],
    ) -> None:
        """Read nothing yet; `start` runs what no client waits for."""
        self._store = store
        self._start = start
        self._fits: OrderedDict[str, tuple[str, Learned | None]] = OrderedDict()
        self._reading: set[str] = set()

    def of(self, queue: str, fit: FitRecord | None) -> Learned | None:
        """Return what a queue learned; None: nothing, or nothing was read yet.

        Args:
            queue: Its name.
            fit: The fit that is published. If another one is in memory, that one is returned, and
                the new one is read in the background.
        """
        if fit is None:
            self._fits.pop(queue, None)
            return None
        known = self._fits.get(queue)
        if (known is None or known[0] != fit.id) and queue not in self._reading:
            self._reading.add(queue)
            self._start(self._read_later(queue))
        if known is None:
            return None
        self._fits.move_to_end(queue)
        return known[1]

    async def _read_later(self, queue: str) -> None:
        try:
            await self.read(queue)
        except StoreUnavailable:
            log.debug("what a queue learned could not be read", extra={"queue": queue})
        finally:
            self._reading.discard(queue)

    async def read(self, queue: str) -> Learned | None:
        """Read what a queue learned now.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        found = await self._store.learned(queue)
        if found is None:
            self._fits.pop(queue, None)
            return None
        fit, packed = found
        known = self._fits.get(queue)
        if known is not None and known[0] == fit.id:
            return known[1]
        try:
            learned = await asyncio.to_thread(Learned.from_bytes, packed)
        except ValueError as exc:
            # A newer or an older release wrote it. This one's next fit replaces it.
            log.warning("a fit cannot be read", extra={"queue": queue, "reason": str(exc)})
            learned = None
        self._fits[queue] = fit.id, learned
        self._fits.move_to_end(queue)
        while len(self._fits) > MOST_FITS:
            self._fits.popitem(last=False)
        return learned
