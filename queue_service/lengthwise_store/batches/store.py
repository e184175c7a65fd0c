"""Batches in Redis: their records, which lines are begun, and the results as they come.

Whoever works on a batch holds it on a lease and a nonce; every write carries the nonce, so that one
who was suspended, and comes back, changes nothing. A line's result is written once, together with
the count, in one script. Called by the routes of batches and by the batch runner.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, cast

from lengthwise_contract.jobs import EndpointPath
from lengthwise_store.keys import BatchKeys
from lengthwise_store.redis.errors import read
from lengthwise_store.storage_scripts import Confirm, StorageScript, at_once

#: Batches that a tenant has in its list, at most.
MAX_BATCHES = 10_000


class BatchStatus(StrEnum):
    """Where a batch is in its life; OpenAI's words."""

    VALIDATING = "validating"  #: Its input is being checked; nothing runs yet.
    FAILED = "failed"  #: Its input was wrong, or is gone.
    IN_PROGRESS = "in_progress"  #: Its lines are jobs in the queue.
    FINALIZING = "finalizing"  #: Every line has its result; the files are being closed.
    COMPLETED = "completed"
    EXPIRED = "expired"  #: Its time was over; the rest of the lines are in the error file.
    CANCELLING = "cancelling"  #: Its jobs are being withdrawn.
    CANCELLED = "cancelled"


#: Statuses that a batch never leaves.
ENDED = frozenset(
    {BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}
)


@dataclass(frozen=True, order=True)
class Place:
    """Where a line begins in a file: its number from 1, the block, and the byte in the block."""

    line: int
    block: int
    offset: int

    def __str__(self) -> str:
        """As it is stored."""
        return f"{self.line}:{self.block}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """What `str` made."""
        line, block, offset = map(int, text.split(":"))
        return cls(line, block, offset)


START = Place(1, 0, 0)


@dataclass(frozen=True, kw_only=True)
class OpenLine:
    """A line that was begun and has no result yet."""

    place: Place
    custom_id: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """A line's result: one line of the output or of the error file."""

    line: int
    file: Literal["out", "err"]
    text: bytes
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch's record. Times: ms since the epoch, by Redis; `at` has those of its statuses."""

    id: str
    tenant: str
    endpoint: EndpointPath
    input_file_id: str
    status: BatchStatus
    metadata: dict[str, str] | None
    created_ms: int
    expires_ms: int
    output_ttl_ms: int
    cursor: Place
    model: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    out_blocks: int = 0
    out_bytes: int = 0
    err_blocks: int = 0
    err_bytes: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    at: Mapping[str, int] = field(default_factory=dict)


class Lost(Exception):
    """Somebody else works on the batch now."""


class BatchStore:
    """The batches of one Redis. Methods raise `StoreUnavailable` when Redis does not answer."""

    def __init__(
        self, client: Any, *, ttl_ms: int, lease_ms: int, confirm: Confirm = at_once
    ) -> None:
        """Connects on first use.

        Args:
            client: An asyncio client of redis-py, with bytes for replies.
            ttl_ms: How long a batch is kept after it was made, ms.
            lease_ms: A batch whose runner is not heard of for so long is another's to take, ms.
            confirm: Awaited before a batch is said to be made.
        """
        self._confirm = confirm
        self.lease_ms = lease_ms
        self._redis = client
        self._ttl_ms = ttl_ms
        self._take = StorageScript(client, "batches/take")
        self._release = StorageScript(client, "batches/release")
        self._clock = StorageScript(client, "clock")
        self._seize = StorageScript(client, "batches/seize")
        self._move = StorageScript(client, "batches/move")
        self._open = StorageScript(client, "batches/open")
        self._settle = StorageScript(client, "batches/settle")

    # ------------------------------------------------------------------ for the routes

    async def create(
        self,
        batch_id: str,
        *,
        tenant: str,
        endpoint: EndpointPath,
        input_file_id: str,
        metadata: dict[str, str] | None,
        window_ms: int,
        output_ttl_ms: int,
    ) -> bool:
        """Make a batch, to be validated; False: the tenant has `MAX_BATCHES` already."""
        of, k = BatchKeys.of(tenant), BatchKeys(batch_id)
        now_ms = await self._call(self._clock, [k.record], [])
        pipe = self._redis.pipeline(transaction=True)
        pipe.zremrangebyscore(of, "-inf", now_ms - self._ttl_ms)
        pipe.zcard(of)
        if (await read(pipe.execute()))[1] >= MAX_BATCHES:
            return False
        fields = {
            "tenant": tenant,
            "endpoint": endpoint,
            "input_file_id": input_file_id,
            "status": BatchStatus.VALIDATING,
            "metadata": json.dumps(metadata),
            "created_ms": now_ms,
            "expires_ms": now_ms + window_ms,
            "output_ttl_ms": output_ttl_ms,
            "cursor": str(START),
        }
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(k.record, mapping=fields)
        pipe.pexpire(k.record, self._ttl_ms)
        await read(pipe.execute())
        pipe = self._redis.pipeline(transaction=True)
        pipe.zadd(of, {batch_id: now_ms})
        pipe.pexpire(of, self._ttl_ms)
        pipe.zadd(BatchKeys.active, {batch_id: 0})
        pipe.pexpire(BatchKeys.active, self._ttl_ms)
        await read(pipe.execute())
        await self._confirm(k.record, BatchKeys.active)
        return True

    async def get(self, tenant: str, batch_id: str) -> Batch | None:
        """A tenant's batch; None: it has none of that id."""
        raw = await read(self._redis.hgetall(BatchKeys(batch_id).record))
        batch = _parse(batch_id, raw)
        return batch if batch is not None and batch.tenant == tenant else None

    async def page(self, tenant: str, *, after: str | None, limit: int) -> tuple[list[Batch], bool]:
        """A part of a tenant's batches, the newest first, and whether there are more behind it."""
        of, start = BatchKeys.of(tenant), 0
        if after is not None:
            at = await read(self._redis.zrevrank(of, after))
            start = 0 if at is None else at + 1
        ids = await read(self._redis.zrange(of, start, start + limit, desc=True))
        found = [await self.get(tenant, one.decode()) for one in ids[:limit]]
        return [batch for batch in found if batch is not None], len(ids) > limit

    async def cancel(self, batch_id: str) -> None:
        """Begin to withdraw a batch; nothing where it has ended, or is about to."""
        await self._moved(
            batch_id,
            "",
            (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS),
            BatchStatus.CANCELLING,
        )

    # ------------------------------------------------------------------ for the runner

    async def take(self) -> str | None:
        """A batch that nobody works on, on a lease; None: there is none."""
        taken = await self._call(self._take, [BatchKeys.active], [self.lease_ms, ""])
        return None if taken is None else cast(bytes, taken).decode()

    async def waiting(self) -> int:
        """How many batches nobody works on."""
        now_ms = await self._call(self._clock, [BatchKeys.active], [])
        return int(await read(self._redis.zcount(BatchKeys.active, "-inf", now_ms)))

    async def seize(self, batch_id: str, nonce: str) -> tuple[int, Batch | None]:
        """Become the one who works on it; the time, ms, and the batch as it is now."""
        now_ms, flat = await self._call(self._seize, [BatchKeys(batch_id).record], [nonce])
        return now_ms, _parse(batch_id, dict(zip(flat[::2], flat[1::2], strict=True)))

    async def beat(self, batch_id: str, nonce: str) -> BatchStatus:
        """Extend the lease; the batch's status now.

        Raises:
            Lost: Somebody else has it.
        """
        owner, status = await read(
            self._redis.hmget(BatchKeys(batch_id).record, ["owner", "status"])
        )
        if owner is None or owner.decode() != nonce:
            raise Lost(batch_id)
        await self._call(self._take, [BatchKeys.active], [self.lease_ms, batch_id])
        await read(self._redis.pexpire(BatchKeys.active, self._ttl_ms))
        return BatchStatus(status.decode())

    async def release(self, batch_id: str) -> None:
        """Let another take it at once, if none has waited longer."""
        await self._call(self._release, [BatchKeys.active], [batch_id])

    async def end(self, batch_id: str) -> None:
        """It needs no more work."""
        await read(self._redis.zrem(BatchKeys.active, batch_id))
        await read(self._redis.unlink(BatchKeys(batch_id).open))

    async def move(
        self,
        batch: Batch,
        nonce: str,
        to: BatchStatus,
        **fields: Any,
    ) -> bool:
        """Bring it from the status of `batch` to another; False: it is no longer in that.

        Raises:
            Lost: Somebody else has it.
        """
        return await self._moved(batch.id, nonce, (batch.status,), to, **fields)

    async def opened(self, batch_id: str) -> dict[int, OpenLine]:
        """The lines that were begun and have no result yet, by number."""
        raw = await read(self._redis.hgetall(BatchKeys(batch_id).open))
        lines = [
            OpenLine(place=Place.parse(place), custom_id=custom_id)
            for place, custom_id in map(json.loads, raw.values())
        ]
        return {line.place.line: line for line in sorted(lines, key=lambda one: one.place)}

    async def open(self, batch: Batch, nonce: str, to: Place, lines: Sequence[OpenLine]) -> None:
        """Note that lines are begun, and that the input was read to `to`; again is the same.

        Raises:
            Lost: Somebody else has it.
        """
        k, pairs = BatchKeys(batch.id), []
        for line in lines:
            pairs += [line.place.line, json.dumps([str(line.place), line.custom_id])]
        args = [nonce, self._ttl_ms, str(batch.cursor), str(to), *pairs]
        if not await self._call(self._open, [k.record, k.open], args):
            raise Lost(batch.id)

    async def settle(
        self, batch: Batch, nonce: str, results: Sequence[Result], *, to: Place | None = None
    ) -> tuple[int, int]:
        """Write results, each line's once; with `to`, of lines from the cursor on to there.

        Returns:
            How large the output and the error file are now, bytes.

        Raises:
            Lost: Somebody else has it.
        """
        k = BatchKeys(batch.id)
        old, new = ("", "") if to is None else (str(batch.cursor), str(to))
        args: list[Any] = [nonce, self._ttl_ms, old, new]
        for r in results:
            args += [r.line, r.file, r.text, r.input_tokens, r.output_tokens]
        answer = await self._call(self._settle, [k.record, k.open, k.out, k.err], args)
        if answer[0] == b"lost":
            raise Lost(batch.id)
        return int(answer[1] or 0), int(answer[2] or 0)

    async def _moved(
        self,
        batch_id: str,
        nonce: str,
        sources: Sequence[BatchStatus],
        to: BatchStatus,
        **fields: Any,
    ) -> bool:
        pairs = [part for name, value in fields.items() for part in (name, value)]
        args = [nonce, "".join(f"{s} " for s in sources), to, *pairs]
        answer = await self._call(self._move, [BatchKeys(batch_id).record], args)
        if answer[0] == b"lost":
            raise Lost(batch_id)
        return bool(answer[0] == b"moved")

    async def _call(self, script: StorageScript, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return await script(keys, args)


def _parse(batch_id: str, raw: Mapping[bytes, bytes]) -> Batch | None:
    r = {name.decode(): value.decode() for name, value in raw.items()}
    if "status" not in r:
        return None
    counts = [
        *("total", "completed", "failed", "input_tokens", "output_tokens"),
        *("out_blocks", "out_bytes", "err_blocks", "err_bytes"),
    ]
    return Batch(
        id=batch_id,
        tenant=r["tenant"],
        endpoint=cast("EndpointPath", r["endpoint"]),
        input_file_id=r["input_file_id"],
        status=BatchStatus(r["status"]),
        metadata=json.loads(r["metadata"]),
        created_ms=int(r["created_ms"]),
        expires_ms=int(r["expires_ms"]),
        output_ttl_ms=int(r["output_ttl_ms"]),
        cursor=Place.parse(r["cursor"]),
        model=r.get("model"),
        output_file_id=r.get("output_file_id"),
        error_file_id=r.get("error_file_id"),
        errors=json.loads(r.get("errors", "[]")),
        at={status: int(r[f"{status}_ms"]) for status in BatchStatus if f"{status}_ms" in r},
        **{name: int(r.get(name, 0)) for name in counts},
    )
