"""The Lua scripts of files, batches and responses: what the system keeps beside jobs.

They move no job, so they are none of `scripts`'s events. Called by the stores of those things.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any

from lengthwise_store.redis.errors import reaching_redis

#: Waits until what was written beside some keys is as safe as was promised.
Confirm = Callable[..., Awaitable[None]]


async def at_once(*keys: str) -> None:
    """A `Confirm` that promises nothing: what Redis has accepted is good enough."""


class StorageScript:
    """One script of this package, ready to run; it loads itself where the server has lost it.

    Args:
        client: An asyncio client of redis-py.
        name: Folder and name: "batches/open" is batches/lua/open.lua; "clock" is lua/clock.lua.
    """

    def __init__(self, client: Any, name: str) -> None:
        folder, _, script = name.rpartition("/")
        source = files("lengthwise_store") / folder / "lua" / f"{script}.lua"
        text = source.read_text(encoding="utf-8")
        self._script = client.register_script(text)

    async def __call__(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run it.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        with reaching_redis():
            return await self._script(keys=keys, args=args)
