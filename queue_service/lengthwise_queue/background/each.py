"""Do a periodic step for each of many items, so that one faulty item holds up no other."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from lengthwise_store.errors import StoreUnavailable

log = logging.getLogger(__name__)

#: The first and the longest pause of an item after an unexpected error, s; it doubles. The item is
#: never given up: what is wrong may be put right.
FAULT_PAUSE_S = (10.0, 600.0)


class EachItem:
    """Steps over items. An item whose step fails is left alone for a while.

    Args:
        what: The name of the job, for the log.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._pauses: dict[str, tuple[float, float]] = {}  #: By item: not before, and the pause.

    async def do(self, items: Iterable[str], step: Callable[[str], Awaitable[None]]) -> None:
        """Run the step for each item that is not left alone.

        Raises:
            StoreUnavailable: Redis does not answer; the rest is left to the next call.
        """
        names = list(items)
        for name in names:
            not_before_s, pause_s = self._pauses.get(name, (0.0, 0.0))
            if time.monotonic() < not_before_s:
                continue
            try:
                await step(name)
            except StoreUnavailable:
                raise
            except Exception:
                # The outermost frame of one item: an error in it must not stop the others.
                pause_s = min(max(2 * pause_s, FAULT_PAUSE_S[0]), FAULT_PAUSE_S[1])
                self._pauses[name] = (time.monotonic() + pause_s, pause_s)
                log.exception(
                    "a periodic job failed for one item, which is left alone for a while",
                    extra={"job": self._what, "item": name, "pause_s": pause_s},
                )
            else:
                self._pauses.pop(name, None)
        for gone in self._pauses.keys() - set(names):
            del self._pauses[gone]
