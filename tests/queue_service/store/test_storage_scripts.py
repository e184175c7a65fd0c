"""The scripts of files, batches, responses and settings are loaded again when they are missing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio as redis

from lengthwise_store.storage_scripts import StorageScript


def test_a_script_that_is_lost_again_between_its_load_and_its_call_is_loaded_once_more(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # redis-py loads a missing script and calls it once more. A flush or a failover in between was
    # a NoScriptError: it ended a worker that published, and was a 500 of the queue service.
    losses = 2

    async def scenario() -> Any:
        nonlocal losses
        client = redis.Redis.from_url(redis_url)
        load: Callable[[Any], Awaitable[Any]] = client.script_load

        async def load_and_lose(script: Any) -> Any:
            nonlocal losses
            sha = await load(script)
            if losses:
                losses -= 1
                await client.script_flush("SYNC")
            return sha

        monkeypatch.setattr(client, "script_load", load_and_lose)
        try:
            await client.script_flush("SYNC")
            return await StorageScript(client, "clock")(keys=["any"], args=[])
        finally:
            await client.aclose()

    assert asyncio.run(scenario())
    assert losses == 0
