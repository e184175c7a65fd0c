"""Waits for a condition: the one helper of all tests.

A test never sleeps for a time that it hopes is long enough. It waits until a condition holds, and
fails with a message when it does not hold in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

#: Nothing in the tests takes as long, s: a condition that does not hold by then never will.
PATIENCE_S = 30.0


def eventually(
    condition: Callable[[], T | None],
    what: str,
    *,
    within_s: float = PATIENCE_S,
    every_s: float = 0.02,
    ignoring: tuple[type[Exception], ...] = (),
) -> T:
    """Return the first true value of `condition`.

    Args:
        condition: Called again and again.
        what: What is waited for, for the message.
        within_s: The test fails after this, s.
        every_s: Pause between two calls, s.
        ignoring: Errors that mean "not yet".
    """
    ends_s = time.monotonic() + within_s
    while True:
        with contextlib.suppress(*ignoring):
            if value := condition():
                return value
        assert time.monotonic() < ends_s, f"not within {within_s:g} s: {what}"
        time.sleep(every_s)


@overload
async def eventually_async(
    condition: Callable[[], Awaitable[T | None]],
    what: str,
    *,
    within_s: float = ...,
    every_s: float = ...,
    ignoring: tuple[type[Exception], ...] = ...,
) -> T: ...


@overload
async def eventually_async(
    condition: Callable[[], T | None],
    what: str,
    *,
    within_s: float = ...,
    every_s: float = ...,
    ignoring: tuple[type[Exception], ...] = ...,
) -> T: ...


async def eventually_async(
    condition: Callable[[], Any],
    what: str,
    *,
    within_s: float = PATIENCE_S,
    every_s: float = 0.01,
    ignoring: tuple[type[Exception], ...] = (),
) -> Any:
    """Like `eventually`, in an event loop; `condition` may be a coroutine function."""
    ends_s = time.monotonic() + within_s
    while True:
        with contextlib.suppress(*ignoring):
            found = condition()
            if value := await found if inspect.isawaitable(found) else found:
                return value
        assert time.monotonic() < ends_s, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(every_s)
