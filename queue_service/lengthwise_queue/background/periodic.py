"""Something that is looked at for ever. Called by the loops of the queue service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from lengthwise_store.errors import StoreUnavailable

log = logging.getLogger(__name__)


async def repeat(look: Callable[[], Awaitable[None]], *, every_s: float, what: str) -> NoReturn:
    """Look every `every_s`, until cancelled; errors are logged, and end nothing.

    Args:
        look: One look; it may raise `StoreUnavailable`, which the next look mends.
        every_s: The pause before each look, s.
        what: Is looked at, for the log.
    """
    while True:
        await asyncio.sleep(every_s)
        try:
            await look()
        except StoreUnavailable:
            log.debug("the store is away", extra={"look": what})
        except Exception:
            log.exception("a look failed", extra={"look": what})
