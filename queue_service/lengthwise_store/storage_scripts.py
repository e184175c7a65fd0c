"""Runs the Lua scripts of files, batches and responses, which are stored beside jobs.

They move no job, so they are not among the events of lua_loader.py. Called by the stores of files,
batches and responses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

from lengthwise_store.redis.errors import reaching_redis

#: How often a script that the server lacks is loaded once more.
_LOADS = 3

#: Waits until the writes beside some keys are as durable as configured.
Confirm = Callable[..., Awaitable[None]]


async def without_confirmation(*keys: str) -> None:
    """Confirm nothing: it is enough that Redis accepted the write."""


class StorageScript:
    """One script of this package, ready to run; it is loaded again when the server lacks it.

    Args:
        client: An asyncio client of redis-py.
        name: Folder and name: "batches/open" is batches/lua/open.lua, "clock" is lua/clock.lua.
    """

    def __init__(self, client: Any, name: str) -> None:
        folder, _, script = name.rpartition("/")
        source = files("lengthwise_store") / folder / "lua" / f"{script}.lua"
        text = source.read_text(encoding="utf-8")
        self._script = client.register_script(text)

    async def __call__(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run the script and return its reply.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        with reaching_redis():
            for _ in range(_LOADS):
                # redis-py loads it once; it may go again, by a failover or a flush in between.
                with contextlib.suppress(NoScriptError):
                    return await self._script(keys=keys, args=args)
            return await self._script(keys=keys, args=args)
