"""Run work that no client waits for, and end it when the app stops. Made by the service."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

#: How long the work may take to end when the app stops, s.
END_S = 2.0


class BackgroundTasks:
    """The tasks of one app that run beside its requests."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[object, object, None]) -> None:
        """Run a coroutine to its end, or until the app stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Wait `END_S` for the tasks, then cancel the rest."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=END_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
