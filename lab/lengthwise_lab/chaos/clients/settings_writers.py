"""Admins that change the settings of the queue, each a field of its own, and read them back.

Workers publish the context of their model into the same settings all the while. Whatever a reply
acknowledged must be read afterwards, until the next write of that field. Called by run.py, and by
nemesis_actions.py for a race.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_lab.chaos.clients.retrying_client import RetryingClient
from lengthwise_lab.chaos.history import History
from lengthwise_lab.chaos.system.processes import ADMIN, QUEUE

#: Fields that change nothing in a run, with their least value. A writer adds its number of writes.
FIELDS = {"max_depth": 10_000, "record_ttl_ms": 60_000, "drift_window_ms": 60_000}

#: Pause between two writes of a writer, s, and writes of each writer in a race.
_PAUSE_S, _RACE_WRITES = 1.5, 6


class SettingsWriters:
    """One writer for each field of `FIELDS`, one for the policy, and a reader.

    Args:
        client: Sends their requests.
        history: Gets them.
        settings: The queue's, as it was created.
        seed: Of their pauses.
    """

    def __init__(
        self, client: RetryingClient, history: History, settings: QueueSettings, *, seed: int
    ) -> None:
        self._client, self._history, self._settings = client, history, settings
        self._rng = random.Random(f"settings {seed}")  # noqa: S311 - must repeat
        self._values: dict[str, Any] = dict(FIELDS) | {"policy": settings.policy}
        self._locks = {name: asyncio.Lock() for name in self._values}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Write and read until `aclose`."""
        for name in FIELDS:
            self._tasks.append(asyncio.create_task(self._keep_writing(name)))
        self._tasks.append(asyncio.create_task(self._keep_reading()))

    async def aclose(self) -> None:
        """Stop. Requests in progress end first, so that no result is unknown because of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def other_policy(self, policy: str) -> AsyncIterator[None]:
        """Let the queue be served by another policy inside the block."""
        await self._write_policy(policy)
        try:
            yield
        finally:
            await self._write_policy(self._settings.policy)

    async def race(self, chance: float) -> int:
        """Let all writers write at once; then one of them replaces all settings.

        Args:
            chance: In [0, 1).

        Returns:
            The number of writes.
        """

        async def several(name: str) -> None:
            for _ in range(_RACE_WRITES):
                await self._write_next(name)

        async with asyncio.TaskGroup() as group:
            for name in FIELDS:
                group.create_task(several(name))
        if chance < 0.5:
            await self._replace_all()
        await self.read()
        return _RACE_WRITES * len(FIELDS)

    async def read(self) -> None:
        """Read the settings once, and record them."""
        self._history.write("settings", "invoke")
        got = await self._client.call_until_answered(ADMIN, "GET", f"/v1/queues/{QUEUE}")
        if got is None or not got.is_success:
            self._history.write("settings", "info")
            return
        settings = got.json()["settings"]
        fields = {name: settings[name] for name in (*self._values, "max_model_len")}
        self._history.write("settings", "ok", values=fields)

    # ------------------------------------------------------------------ one request

    async def _keep_writing(self, name: str) -> None:
        while True:
            await asyncio.sleep(_PAUSE_S * self._rng.uniform(0.5, 1.5))
            await asyncio.shield(self._write_next(name))

    async def _keep_reading(self) -> None:
        while True:
            await asyncio.sleep(_PAUSE_S)
            await asyncio.shield(self.read())

    async def _write_next(self, name: str) -> None:
        async with self._locks[name]:
            self._values[name] += 1
            await self._write("PATCH", {name: self._values[name]})

    async def _write_policy(self, policy: str) -> None:
        async with self._locks["policy"]:
            self._values["policy"] = policy
            # A policy must come back: the order could not be checked otherwise.
            while not await self._write("PATCH", {"policy": policy}):
                await self._client.pause()

    async def _replace_all(self) -> None:
        """Replace all settings, while no other writer writes. What is left out gets its default."""
        for lock in self._locks.values():
            await lock.acquire()
        try:
            for name in FIELDS:
                self._values[name] += 1
            body = self._settings.model_copy(update=self._values).model_dump(
                mode="json", exclude={"max_model_len"}
            )
            await self._write("PUT", body)
        finally:
            for lock in self._locks.values():
                lock.release()

    async def _write(self, method: str, body: dict[str, Any]) -> bool:
        """Send one write once, and record its result. Return whether it was acknowledged."""
        values = {name: body[name] for name in self._values if name in body}
        self._history.write("setting", "invoke", values=values)
        got = await self._client.call(ADMIN, method, f"/v1/queues/{QUEUE}", body)
        known = got is not None and (got.is_success or got.status_code < 500)
        kind = "info" if not known else "ok" if got is not None and got.is_success else "fail"
        status = None if got is None else got.status_code
        self._history.write("setting", kind, values=values, status=status)
        return kind == "ok"
