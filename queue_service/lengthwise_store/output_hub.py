"""Many readers of job streams on one blocking connection.

A front end may hold thousands of open answers. A blocking XREAD for each would be a Redis
connection for each; the hub reads all streams that anybody waits for with one, and is woken by an
entry in a stream of its own (the nudge) when that set changes. A job that ends without a word has
no stream (lua/include/end_job.lua); its id stands in the queue's stream `ends`, which the hub reads
too. Called by `JobStore`.
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
from redis.exceptions import RedisError

from lengthwise_store.jobs import EntryKind, OutputEntry
from lengthwise_store.keys import QueueKeys
from lengthwise_store.output_entries import order, parse_entries

log = logging.getLogger(__name__)


@dataclass
class _Stream:
    """One stream that is read: how far, and who waits for more."""

    tail: str
    waiters: dict[asyncio.Future[list[OutputEntry]], str] = field(default_factory=dict)  #: after
    used_s: float = 0.0  #: When somebody last waited, monotonic seconds.


class OutputHub:
    """One per queue and process. `blocking` is a client that nothing else uses."""

    #: One XREAD's longest block, seconds; bounds how long an unneeded stream stays in the set.
    BLOCK_S = 5.0

    #: A stream that nobody waited for so long is no longer read, seconds. A reader is away only
    #: while it hands on what it got.
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
        """Whether entries behind `after` may already have been read past: look into Redis first."""
        known = self._streams.get(stream)
        return known is not None and order(after) < order(known.tail)

    async def wait(
        self,
        stream: str,
        after: str,
        timeout_s: float,
        *,
        look: Callable[[], Awaitable[list[OutputEntry]]],
    ) -> list[OutputEntry]:
        """The entries of `stream` behind `after`; empty when the time is over, or the job.

        Nothing is missed: a stream joins the set at `after`, and its tail moves only as entries
        are handed to those who wait; who comes too late for them finds `is_behind`. A job that
        ended without a word before its stream joined is found by a `look` into Redis behind that.
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
                    found = await look()
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
            # The loop below meets the same trouble and starts over with the new set.
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
                # Redis is away, restarting or failing over: the readers keep waiting, and resume.
                log.warning("output hub lost redis", extra={"error": str(exc)})
                pause_s = min(1.0, max(0.05, pause_s * 2))
                continue
            for name, entries in reply or []:
                self._hand_out(name.decode(), entries)

    def _hand_out(self, name: str, raw: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        if name == self._nudge:
            self._nudge_seen = raw[-1][0].decode()
            return
        if name == self._keys.ends:
            self._ends_seen = raw[-1][0].decode()
            for _, fields in raw:
                for job_id in fields.get(b"ids", b"").decode().split():
                    self._send_away(self._keys.out(job_id))
            return
        stream = self._streams.get(name)
        if stream is None:
            return
        stream.tail = raw[-1][0].decode()
        entries = parse_entries(raw)
        for future, after in list(stream.waiters.items()):
            fresh = [entry for entry in entries if order(entry.id) > order(after)]
            if fresh and not future.done():
                future.set_result(fresh)
        if entries and entries[-1].kind is EntryKind.END:
            del self._streams[name]

    def _send_away(self, name: str) -> None:
        """Let those go who wait for a stream to which nothing more comes."""
        stream = self._streams.pop(name, None)
        for future in stream.waiters if stream is not None else ():
            if not future.done():
                future.set_result([])

    def _forget_idle(self) -> None:
        limit = time.monotonic() - self.IDLE_S
        for name in [n for n, s in self._streams.items() if not s.waiters and s.used_s < limit]:
            del self._streams[name]

    async def aclose(self) -> None:
        """Stop reading; waits in progress end empty-handed at their time limit."""
        self._closing = True
        if self._task is not None and not self._task.done():
            # A nudge and not a cancel: a blocking redis-py command that was cancelled as its
            # reply came in was seen to go on until its time limit (10 s, redis-py 8.1).
            await self._wake()
            await asyncio.wait([self._task], timeout=1)
            # Its end first: closed under its feet, it would connect once more and never close that.
            while not self._task.done():
                self._task.cancel()
                await asyncio.wait([self._task], timeout=0.5)
        await self._blocking.aclose()
