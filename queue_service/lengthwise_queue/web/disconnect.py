"""Stops the work on a request when its client disconnects, or when this replica shuts down."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")

#: Status of a response that has no reader any more, for the logs; taken over from nginx.
CLIENT_CLOSED_REQUEST = 499


class ClientDisconnected(Exception):
    """The client closed the connection before it had its answer."""


class ReplicaStopping(Exception):
    """This replica shuts down. The client can continue at another one."""


async def while_connected(
    receive: Receive, work: Coroutine[Any, Any, T], *, unless: asyncio.Event | None = None
) -> T:
    """Run `work` for as long as the client stays connected.

    Args:
        receive: The request's ASGI channel; the body must have been read from it.
        work: It is cancelled when the client disconnects.
        unless: The work is also cancelled when this event is set.

    Raises:
        ClientDisconnected: The client closed the connection.
        ReplicaStopping: `unless` was set.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(receive))
    waits: set[asyncio.Future[Any]] = {task, gone}
    stop = None if unless is None else asyncio.ensure_future(unless.wait())
    if stop is not None:
        waits.add(stop)
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientDisconnected
        raise ReplicaStopping
    finally:
        for future in waits:
            future.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
