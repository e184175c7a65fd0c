"""Runs scripts in few round trips: what is asked for at the same time travels together.

`JobStore` sends every script through here. Calls of one turn of the event loop go out as one
pipeline, at most `_TOGETHER` of them so that the server works on one while this process packs the
next; a call that is alone leaves in the same turn. A front end under load thus needs a handful of
connections and not one for each request (redis-py 8 refuses the 101st).

The pipeline is packed by hiredis and read without a timer for each reply: redis-py's own took 77
us of CPU a job where this takes 15 (docs/research/experiments.md).
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
from redis.exceptions import NoScriptError, ResponseError

from lengthwise_store.lua_loader import Script
from lengthwise_store.redis.durability import Confirmation

#: One script to run: its name, its keys, its arguments.
Call = tuple[str, Sequence[str], Sequence[Any]]

#: Calls of one pipeline, and pipelines under way at once. Between 8 and 32 calls no difference
#: could be seen (docs/research/experiments.md); several under way let the server work while we
#: pack.
_TOGETHER, _UNDER_WAY = 16, 4

#: A call with so many arguments keeps the server busy for long (16 ends are 100) and travels alone:
#: two in one pipeline are answered together, and then server and caller work by turns only.
_MANY = 60


#: Scripts that take any number of jobs: by name, how many keys and arguments all jobs share. What
#: comes behind those is one job's, and the answer is a list with one answer a job. Naming its keys
#: costs a script more than half of what `submit` does (docs/research/experiments.md).
_SHARED: Mapping[str, tuple[int, int]] = {"submit": (11, 4)}


#: How often scripts are loaded before a call is given up: a flush may come between a load and its
#: call, and with a flusher at full speed (tests/faults) once did so twice in a row.
_LOADS = 10


@dataclass(slots=True)
class _Asked:
    """Calls of one caller, which stay together and in order; `answers` is their future."""

    calls: Sequence[Call]
    answers: asyncio.Future[list[Any]]


class ScriptPipeline:
    """See the module. Use from one event loop."""

    def __init__(
        self,
        client: redis.Redis,
        scripts: Mapping[str, Script],
        *,
        timeout_s: float,
        confirmation: Confirmation | None = None,
    ) -> None:
        """Nothing is opened before the first call.

        Args:
            client: Whose connections are used; should have no `socket_timeout` of its own, which
                would cost a timer for each reply.
            scripts: By name.
            timeout_s: Longest that a pipeline may take, s.
            confirmation: Asked for behind each pipeline; the answers end with what it lacks.
        """
        self._client, self._timeout_s = client, timeout_s
        self._confirmation = confirmation
        self._heads = {name: ("EVALSHA", script.sha.encode()) for name, script in scripts.items()}
        self._loads = {
            name: _pack("SCRIPT", "LOAD", script.text) for name, script in scripts.items()
        }
        self._waiting: deque[_Asked] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._senders = 0

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """What each script answers, in order; an error reply is an exception in its place.

        Loads scripts that the server does not know. With a `confirmation`, there is one answer
        more: None, or what is missing, in words.

        Raises:
            redis.exceptions.RedisError, OSError: The server did not answer. Some or all of the
                calls may have been carried out.
        """
        asked = _Asked(calls, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._senders < _UNDER_WAY:
            self._senders += 1
            # Runs behind everything that is ready in this turn of the loop, and so takes it along.
            task = asyncio.create_task(self._send_waiting())
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        return await asked.answers

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                await self._send(self._next_batch())
        finally:
            # In the same turn as the look at `_waiting`: counted by a callback of the task, a call
            # that came between the two was left lying until the next one.
            self._senders -= 1

    def _next_batch(self) -> list[_Asked]:
        batch: list[_Asked] = []
        count, alone = 0, False
        while self._waiting and not alone:
            asked = self._waiting[0]
            alone = any(len(args) > _MANY for _, _, args in asked.calls)
            if batch and (alone or count + len(asked.calls) > _TOGETHER):
                break
            self._waiting.popleft()
            if not asked.answers.done():  # its caller was cancelled
                batch.append(asked)
                count += len(asked.calls)
        return batch

    async def _send(self, batch: Sequence[_Asked]) -> None:
        if not batch:
            return
        try:
            answers = await self._round_trip([call for asked in batch for call in asked.calls])
        except BaseException as exc:
            for asked in batch:
                if not asked.answers.done():
                    if isinstance(exc, Exception):
                        asked.answers.set_exception(exc)
                    else:
                        asked.answers.cancel()
            if not isinstance(exc, Exception):
                raise
            return
        first, count = 0, sum(len(asked.calls) for asked in batch)
        for asked in batch:
            behind = first + len(asked.calls)
            if not asked.answers.done():
                asked.answers.set_result([*answers[first:behind], *answers[count:]])
            first = behind

    async def _round_trip(self, asked: Sequence[Call]) -> list[Any]:
        calls, counts = _merged(asked)
        packed = [_pack(*self._heads[name], len(keys), *keys, *args) for name, keys, args in calls]
        confirmation = self._confirmation
        asks = confirmation.commands(calls[0][1][0]) if confirmation is not None else []
        confirm = [_pack(*command) for command in asks]
        pool = self._client.connection_pool
        async with asyncio.timeout(self._timeout_s):  # it greets the server, who may be silent
            connection = await pool.get_connection()  # type: ignore[no-untyped-call]

        async def once() -> list[Any]:
            async with asyncio.timeout(self._timeout_s):
                answers = await _exchange(connection, [*packed, *confirm])
                confirmed = answers[len(packed) :]
                del answers[len(packed) :]
                for _ in range(_LOADS):
                    missing = [i for i, a in enumerate(answers) if isinstance(a, NoScriptError)]
                    if not missing:
                        break
                    # A new server, or one that forgot: after a failover, or SCRIPT FLUSH.
                    loads = [self._loads[name] for name in {calls[i][0] for i in missing}]
                    resent = [packed[i] for i in missing]
                    again = await _exchange(connection, [*loads, *resent, *confirm])
                    del again[: len(loads)]
                    for i, answer in zip(missing, again, strict=False):
                        answers[i] = answer
                    confirmed = again[len(missing) :]
            answers = _parted(calls, counts, answers)
            return answers if confirmation is None else [*answers, confirmation.missing(confirmed)]

        try:
            retried = connection.retry.call_with_retry(once, lambda _: connection.disconnect())
            return cast(list[Any], await retried)
        finally:
            await pool.release(connection)

    async def aclose(self) -> None:
        """Give up what is under way; the connections are the client's to close."""
        for task in list(self._sending):
            task.cancel()
        for asked in self._waiting:
            asked.answers.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)


def _merged(calls: Sequence[Call]) -> tuple[list[Call], list[int]]:
    """The calls, those of a script for many jobs as one where they follow each other.

    And how many of them each is.
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


def _parted(calls: Sequence[Call], counts: Sequence[int], answers: Sequence[Any]) -> list[Any]:
    """The answers to merged calls, one for each of those that they were."""
    parted: list[Any] = []
    for (name, _, _), count, answer in zip(calls, counts, answers, strict=True):
        if isinstance(answer, Exception) or name not in _SHARED:
            parted += [answer] * count
        else:
            parted += [_error(one) if one[0] == b"error" else one for one in answer]
    return parted


def _error(answer: Sequence[bytes]) -> ResponseError:
    return ResponseError(answer[1].decode(errors="replace"))


def _pack(*parts: Any) -> bytes:
    # Its stub allows one part only.
    return cast(bytes, hiredis.pack_command(cast(Any, parts)))


async def _exchange(connection: AbstractConnection, packed: Sequence[bytes]) -> list[Any]:
    """Send packed commands, and read a reply to each; an error reply is an exception."""
    await connection.send_packed_command(packed)
    answers: list[Any] = []
    for _ in packed:
        try:
            answers.append(await connection.read_response())
        except ResponseError as exc:
            answers.append(exc)
    return answers
