"""A step that is repeated for ever."""

from __future__ import annotations

import asyncio

import pytest

from lengthwise_queue.background.periodic import repeat
from lengthwise_store.errors import StoreUnavailable


@pytest.mark.parametrize(
    ("error", "logged"), [(StoreUnavailable("away"), False), (RuntimeError("odd"), True)]
)
def test_a_step_that_fails_is_followed_by_the_next(
    error: Exception, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    steps = 0
    again = asyncio.Event()

    async def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 1:
            raise error
        again.set()

    async def body() -> None:
        task = asyncio.create_task(repeat(step, every_s=0.001, what="it"))
        async with asyncio.timeout(30):
            await again.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())
    assert [r.levelname for r in caplog.records if r.levelno >= 30] == ["ERROR"] * logged
