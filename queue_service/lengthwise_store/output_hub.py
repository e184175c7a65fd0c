"""Serves many readers of job streams from one blocking connection.

The queue service may hold thousands of open answers. A blocking XREAD for each would need a Redis
connection for each. The hub reads all streams that have a waiting reader with one XREAD, and an
entry in a stream of its own (the nudge) wakes it when that set changes. A job that ends without
output has no stream (lua/include/end_job.lua); its id is in the queue's stream `ends`, which the
hub reads too. Called by waits.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio as redis
from redis.exceptions import RedisError, ResponseError

from lengthwise_store.codec.output import entry_order, read_entries
from lengthwise_store.jobs import EntryKind, OutputEntry
from lengthwise_store.keys import QueueKeys
from lengthwise_store.redis.errors import is_outage

log = logging.getLogger(__name__)


@dataclass
class _Stream:
    """One stream that is read: its last entry read, and the readers that wait for more."""

    tail: str
    waiters: dict[asyncio.Future[list[OutputEntry]], str] = field(default_factory=dict)
    """By waiting reader: the entry that it has."""
    used_s: float = 0.0  #: When a reader last waited, monotonic seconds.


class OutputHub:
    """The readers of one queue in this process. `blocking` is a client that nothing else uses."""

    #: Longest block of one XREAD, s; bounds how long an unneeded stream stays in the set.
    BLOCK_S = 5.0

    #: A stream without a waiting reader for this long is no longer read, s. A reader does not wait
    #: only while it sends the entries that it got.
    IDLE_S = 2.0

    def __init__(self, blocking: redis.Redis, client: redis.Redis, keys: QueueKeys) -> None:
        self._blocking = blocking
        self._client = client
        self._keys = keys
        self._nudge = f"{keys.prefix}nudge:{uuid.uuid4().hex}"
        self._nudge_seen = self._ends_seen = "0-0"
        self._streams: dict[str, _Stream] = {}
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def is_behind(self, stream: str, after: str) -> bool:
        """Whether the hub may have read past entries behind `after`, which are then read first."""
        known = self._streams.get(stream)
        return known is not None and entry_order(after) < entry_order(known.tail)

    async def wait(
        self,
        stream: str,
        after: str,
        timeout_s: float,
        *,
        read_now: Callable[[], Awaitable[list[OutputEntry]]],
    ) -> list[OutputEntry]:
        """Wait for the entries of `stream` behind `after`; empty: timeout, or the job ended.

        No entry is missed. A stream joins the set at `after`, and its tail moves only when its
        entries go to the waiting readers; a reader that comes too late for them finds `is_behind`.
        A job that ended without output before its stream joined is found by `read_now`, a read of
        Redis that is made after the stream has joined.
        """
        future: asyncio.Future[list[OutputEntry]] = asyncio.get_running_loop().create_future()
        known = self._streams.get(stream)
        joins = known is None
        if known is None:
            known = self._streams[stream] = _Stream(tail=after)
        known.waiters[future] = after
        known.used_s = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                if joins:
                    await self._wake()
                    found = await read_now()
                    if found:
                        return found
                return await future
        except TimeoutError:
            return []
        finally:
            known.waiters.pop(future, None)
            known.used_s = time.monotonic()

    async def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._read_all(), name="output-hub")
            return
        try:
            pipe = self._client.pipeline(transaction=False)
            pipe.xadd(self._nudge, {"n": 1}, maxlen=1, approximate=False)
            pipe.pexpire(self._nudge, 60_000)
            await pipe.execute()
        except (RedisError, OSError) as exc:
            # The loop below meets the same problem and starts over with the new set.
            log.info("output hub could not be nudged", extra={"error": str(exc)})

    async def _read_all(self) -> None:
        pause_s = 0.0
        while self._streams and not self._closing:
            await asyncio.sleep(pause_s)
            self._forget_idle()
            wanted: dict[Any, Any] = {name: s.tail for name, s in self._streams.items()}
            wanted[self._nudge] = self._nudge_seen
            wanted[self._keys.ends] = self._ends_seen
            try:
                reply: Any = await self._blocking.xread(wanted, block=int(self.BLOCK_S * 1000))
                pause_s = 0.0
            except (RedisError, OSError) as exc:
                # Redis is down, restarting or failing over: the readers keep waiting, and resume.
                log.warning("output hub lost redis", extra={"error": str(exc)})
                pause_s = min(1.0, max(0.05, pause_s * 2))
                if isinstance(exc, ResponseError) and not is_outage(exc):
                    await self._release_damaged()
                continue
            for name, entries in reply or []:
                self._deliver(name.decode(), entries)

    def _deliver(self, name: str, raw: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        if name == self._nudge:
            self._nudge_seen = raw[-1][0].decode()
            return
        if name == self._keys.ends:
            self._ends_seen = raw[-1][0].decode()
            for _, fields in raw:
                for job_id in fields.get(b"ids", b"").decode().split():
                    self._release(self._keys.out(job_id))
            return
        stream = self._streams.get(name)
        if stream is None:
            return
        stream.tail = raw[-1][0].decode()
        entries = read_entries(raw)
        for future, after in list(stream.waiters.items()):
            fresh = [entry for entry in entries if entry_order(entry.id) > entry_order(after)]
            if fresh and not future.done():
                future.set_result(fresh)
        if entries and entries[-1].kind is EntryKind.END:
            del self._streams[name]

    def _release(self, name: str) -> None:
        """End the waits for a stream that gets no more entries."""
        stream = self._streams.pop(name, None)
        for future in stream.waiters if stream is not None else ():
            if not future.done():
                future.set_result([])

    async def _release_damaged(self) -> None:
        """End the waits for keys that are no streams: they must not stop all other readers."""
        names = list(self._streams)
        try:
            pipe = self._client.pipeline(transaction=False)
            for name in names:
                pipe.type(name)
            kinds = await pipe.execute()
        except (RedisError, OSError):
            return  # the next read fails as well, and this is tried again
        for name, kind in zip(names, kinds, strict=True):
            if kind not in (b"stream", b"none"):
                log.error("the output of a job is damaged", extra={"key": name})
                self._release(name)

    def _forget_idle(self) -> None:
        limit = time.monotonic() - self.IDLE_S
        for name in [n for n, s in self._streams.items() if not s.waiters and s.used_s < limit]:
            del self._streams[name]

    async def aclose(self) -> None:
        """Stop reading; waits in progress return nothing at their timeout."""
        self._closing = True
        if self._task is not None and not self._task.done():
            # A nudge and not a cancel: a blocking redis-py command that was cancelled while its
            # reply arrived ran on until its timeout (10 s, redis-py 8.1).
            await self._wake()
            await asyncio.wait([self._task], timeout=1)
            # End it before the client is closed: otherwise it connects once more and never closes
            # that.
            while not self._task.done():
                self._task.cancel()
                await asyncio.wait([self._task], timeout=0.5)
        await self._blocking.aclose()
