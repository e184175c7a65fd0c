"""Runs Lua scripts in few round trips: calls that are made at the same time travel together.

`JobStore` sends every script through a `ScriptPipeline`. The calls of one turn of the event loop go
out as one Redis pipeline of at most `_TOGETHER` calls, so that the server works on one while this
process packs the next. A call that is alone is sent in the same turn. A queue service under load
thus needs a handful of connections and not one for each request (redis-py 8 refuses the 101st).

The pipeline is packed by hiredis and read without a timer for each reply: redis-py's own took 77
us of CPU a job, this takes 15 (docs/research/experiments.md).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import hiredis
import redis.asyncio as redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from lengthwise_store.lua_loader import Script
from lengthwise_store.redis.durability import Confirmation
from lengthwise_store.redis.errors import UNSENT

#: One script to run: its name, its keys, its arguments.
ScriptCall = tuple[str, Sequence[str], Sequence[Any]]

#: Calls of one pipeline, and pipelines in flight at once. Between 8 and 32 calls no difference
#: was measured (docs/research/experiments.md); several in flight let the server work while
#: this process packs.
_TOGETHER, _IN_FLIGHT = 16, 4

#: A call with this many arguments keeps the server busy for long (16 completions are 100) and
#: travels alone: two in one pipeline are answered together, so that server and caller would take
#: turns.
_MANY = 60


#: Scripts that take any number of jobs: by name, how many keys and arguments all jobs share. The
#: keys and arguments behind those belong to one job each, and the reply is a list with one reply a
#: job. Naming its keys costs a script more than half of what `submit` does
#: (docs/research/experiments.md).
_SHARED: Mapping[str, tuple[int, int]] = {"submit": (11, 4)}


#: How often scripts are loaded before a call fails: a SCRIPT FLUSH may come between a load and its
#: call. With a client that flushes at full speed (tests/faults) that happened twice in a row.
_LOADS = 10


@dataclass(slots=True)
class _PendingCalls:
    """The calls of one caller, which stay together and in order, and their replies' future."""

    calls: Sequence[ScriptCall]
    replies: asyncio.Future[list[Any]]


class ScriptPipeline:
    """Sends the scripts of one slot together. Use it from one event loop."""

    def __init__(
        self,
        client: redis.Redis,
        scripts: Mapping[str, Script],
        *,
        timeout_s: float,
        confirmation: Confirmation | None = None,
    ) -> None:
        """Open nothing before the first call.

        Args:
            client: The client whose connections are used. It should have no `socket_timeout`, which
                would cost a timer for each reply.
            scripts: By name.
            timeout_s: Longest time of one round trip, s.
            confirmation: Asked for behind each pipeline; the replies end with what it lacks.
        """
        self._client, self._timeout_s = client, timeout_s
        self._confirmation = confirmation
        self._heads = {name: ("EVALSHA", script.sha.encode()) for name, script in scripts.items()}
        self._loads = {
            name: _pack("SCRIPT", "LOAD", script.text) for name, script in scripts.items()
        }
        self._waiting: deque[_PendingCalls] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._senders = 0

    async def run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run scripts and return their replies in order, an error reply as an exception.

        Loads scripts that the server lacks. With a `confirmation`, there is one more reply: None,
        or what is missing, in words.

        Raises:
            redis.exceptions.RedisError, OSError: The server did not answer. Some or all of the
                calls may have been carried out.
        """
        pending = _PendingCalls(calls, asyncio.get_running_loop().create_future())
        self._waiting.append(pending)
        if self._senders < _IN_FLIGHT:
            self._senders += 1
            # It runs behind every task that is ready in this turn of the loop, and sends their
            # calls.
            task = asyncio.create_task(self._send_waiting())
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        return await pending.replies

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                await self._send(self._next_batch())
        finally:
            # In the same turn as the last look at `_waiting`. When a callback of the task counted,
            # a call that came between the two waited until the next call.
            self._senders -= 1

    def _next_batch(self) -> list[_PendingCalls]:
        batch: list[_PendingCalls] = []
        count, alone = 0, False
        while self._waiting and not alone:
            pending = self._waiting[0]
            alone = any(len(args) > _MANY for _, _, args in pending.calls)
            if batch and (alone or count + len(pending.calls) > _TOGETHER):
                break
            self._waiting.popleft()
            if not pending.replies.done():  # done: its caller was cancelled
                batch.append(pending)
                count += len(pending.calls)
        return batch

    async def _send(self, batch: Sequence[_PendingCalls]) -> None:
        if not batch:
            return
        try:
            replies = await self._round_trip([call for pending in batch for call in pending.calls])
        except BaseException as exc:
            for pending in batch:
                if not pending.replies.done():
                    if isinstance(exc, Exception):
                        pending.replies.set_exception(exc)
                    else:
                        pending.replies.cancel()
            if not isinstance(exc, Exception):
                raise
            return
        first, count = 0, sum(len(pending.calls) for pending in batch)
        for pending in batch:
            behind = first + len(pending.calls)
            if not pending.replies.done():
                pending.replies.set_result([*replies[first:behind], *replies[count:]])
            first = behind

    async def _round_trip(self, unmerged: Sequence[ScriptCall]) -> list[Any]:
        calls, counts = _merged(unmerged)
        packed = [_pack(*self._heads[name], len(keys), *keys, *args) for name, keys, args in calls]
        confirmation = self._confirmation
        commands = confirmation.commands(calls[0][1][0]) if confirmation is not None else []
        confirm = [_pack(*command) for command in commands]
        pool = self._client.connection_pool
        try:
            async with asyncio.timeout(self._timeout_s):  # it may connect, to a silent server
                connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as exc:  # a TimeoutError is an OSError
            exc.add_note(UNSENT)
            raise

        async def once() -> list[Any]:
            async with asyncio.timeout(self._timeout_s):
                replies = await _exchange(connection, [*packed, *confirm])
                confirmed = replies[len(packed) :]
                del replies[len(packed) :]
                for _ in range(_LOADS):
                    missing = [i for i, r in enumerate(replies) if isinstance(r, NoScriptError)]
                    if not missing:
                        break
                    # The server lacks them: after a failover, or SCRIPT FLUSH.
                    loads = [self._loads[name] for name in {calls[i][0] for i in missing}]
                    resent = [packed[i] for i in missing]
                    again = await _exchange(connection, [*loads, *resent, *confirm])
                    del again[: len(loads)]
                    for i, reply in zip(missing, again, strict=False):
                        replies[i] = reply
                    confirmed = again[len(missing) :]
            replies = _split(calls, counts, replies)
            return replies if confirmation is None else [*replies, confirmation.missing(confirmed)]

        try:
            retried = connection.retry.call_with_retry(once, lambda _: connection.disconnect())
            return cast(list[Any], await retried)
        finally:
            await pool.release(connection)

    async def aclose(self) -> None:
        """Cancel the round trips in flight; the caller closes the client."""
        for task in list(self._sending):
            task.cancel()
        for pending in self._waiting:
            pending.replies.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)


def _merged(calls: Sequence[ScriptCall]) -> tuple[list[ScriptCall], list[int]]:
    """Merge calls of a script for many jobs that follow each other.

    Returns:
        The merged calls, and how many calls each of them was.
    """
    merged: list[tuple[str, list[str], list[Any]]] = []
    counts: list[int] = []
    for name, keys, args in calls:
        last = merged[-1] if merged else None
        shared_keys, shared_args = _SHARED.get(name, (0, 0))
        if (
            shared_keys
            and last is not None
            and (last[0], last[1][0]) == (name, keys[0])
            and last[2][:shared_args] == list(args[:shared_args])
        ):
            last[1].extend(keys[shared_keys:])
            last[2].extend(args[shared_args:])
            counts[-1] += 1
        else:
            merged.append((name, list(keys), list(args)))
            counts.append(1)
    return list(merged), counts


def _split(calls: Sequence[ScriptCall], counts: Sequence[int], replies: Sequence[Any]) -> list[Any]:
    """Split the replies to merged calls into one for each original call."""
    split: list[Any] = []
    for (name, _, _), count, reply in zip(calls, counts, replies, strict=True):
        if isinstance(reply, Exception) or name not in _SHARED:
            split += [reply] * count
        else:
            split += [_error(one) if one[0] == b"error" else one for one in reply]
    return split


def _error(reply: Sequence[bytes]) -> ResponseError:
    return ResponseError(reply[1].decode(errors="replace"))


def _pack(*parts: Any) -> bytes:
    # The stub of pack_command allows one part only.
    return cast(bytes, hiredis.pack_command(cast(Any, parts)))


async def _exchange(connection: AbstractConnection, packed: Sequence[bytes]) -> list[Any]:
    """Send packed commands, and read a reply to each; an error reply is an exception."""
    await connection.send_packed_command(packed)
    replies: list[Any] = []
    for _ in packed:
        try:
            replies.append(await connection.read_response())
        except ResponseError as exc:
            replies.append(exc)
    return replies
