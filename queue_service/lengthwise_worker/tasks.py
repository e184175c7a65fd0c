"""Ends tasks reliably, and awaits work that an event may interrupt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any


async def end_tasks(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks until they have ended: redis-py can swallow a cancellation (redis-py #2624).

    A task is cancelled again after 3 s at the earliest: sooner would interrupt what it closes while
    it ends.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=3.0)


async def unless_set(event: asyncio.Event, work: Awaitable[Any]) -> None:
    """Await `work`, which is cancelled as soon as `event` is set."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
    finally:
        await end_tasks(task, stopped)
