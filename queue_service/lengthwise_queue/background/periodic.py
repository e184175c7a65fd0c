"""Repeat a step for ever. Called by the periodic jobs of the queue service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from lengthwise_store.errors import StoreUnavailable

log = logging.getLogger(__name__)


async def repeat(step: Callable[[], Awaitable[None]], *, every_s: float, what: str) -> NoReturn:
    """Run a step every `every_s`, until cancelled; log its errors and continue.

    Args:
        step: May raise `StoreUnavailable`: Redis does not answer, and the next step tries again.
        every_s: The pause before each step, s.
        what: The name of the job, for the log.
    """
    while True:
        await asyncio.sleep(every_s)
        try:
            await step()
        except StoreUnavailable:
            log.debug("redis does not answer", extra={"job": what})
        except Exception:
            log.exception("a periodic job failed", extra={"job": what})
