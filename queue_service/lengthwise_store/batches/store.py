"""Stores batches in Redis: their records, the lines that were started, and the results.

A runner holds a batch on a lease and a nonce. Every write carries the nonce, so that a runner that
was suspended and continues later changes nothing. A line's result is written once, together with
the counts, in one script. Called by the routes of batches and by the batch runner.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, cast

from redis.exceptions import ResponseError

from lengthwise_contract.jobs import EndpointPath
from lengthwise_store.batches.batch import (
    ENDED,
    START,
    Batch,
    BatchLost,
    BatchStatus,
    LineResult,
    OpenLine,
    Place,
    read_batch,
)
from lengthwise_store.keys import BatchKeys
from lengthwise_store.redis.errors import read
from lengthwise_store.storage_scripts import Confirm, StorageScript, without_confirmation

log = logging.getLogger(__name__)

#: Batches of one tenant, at most.
MAX_BATCHES = 10_000


class BatchStore:
    """The batches of one Redis. Methods raise `StoreUnavailable` when Redis does not answer."""

    def __init__(
        self, client: Any, *, ttl_ms: int, lease_ms: int, confirm: Confirm = without_confirmation
    ) -> None:
        """Connect on first use.

        Args:
            client: An asyncio client of redis-py, with bytes for replies.
            ttl_ms: How long a batch is kept after its creation, ms.
            lease_ms: When a runner is silent for this long, another may take its batch, ms.
            confirm: Awaited before `create` returns.
        """
        self._confirm = confirm
        self.lease_ms = lease_ms
        self._redis = client
        self._ttl_ms = ttl_ms
        self._take = StorageScript(client, "batches/take")
        self._release = StorageScript(client, "batches/release")
        self._clock = StorageScript(client, "clock")
        self._acquire = StorageScript(client, "batches/acquire")
        self._move = StorageScript(client, "batches/move")
        self._fault = StorageScript(client, "batches/fault")
        self._open = StorageScript(client, "batches/open")
        self._write_results = StorageScript(client, "batches/write_results")

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
        max_body_bytes: int,
    ) -> bool:
        """Create a batch, to be validated; False: the tenant has `MAX_BATCHES` already.

        Its lines are judged by `max_body_bytes`, whatever the limit is when they run.
        """
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
            "max_body_bytes": max_body_bytes,
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
        """Return a tenant's batch; None: it has none of that id, or its record is damaged."""
        try:
            raw = await read(self._redis.hgetall(BatchKeys(batch_id).record))
        except ResponseError:  # its key holds something else; the tenant's others must be listed
            log.exception("the record of a batch cannot be read", extra={"batch_id": batch_id})
            return None
        batch = read_batch(batch_id, raw)
        return batch if batch is not None and batch.tenant == tenant else None

    async def page(self, tenant: str, *, after: str | None, limit: int) -> tuple[list[Batch], bool]:
        """Return a page of a tenant's batches, the newest first, and whether more follow."""
        of, start = BatchKeys.of(tenant), 0
        if after is not None:
            at = await read(self._redis.zrevrank(of, after))
            start = 0 if at is None else at + 1
        ids = await read(self._redis.zrange(of, start, start + limit, desc=True))
        found = [await self.get(tenant, one.decode()) for one in ids[:limit]]
        return [batch for batch in found if batch is not None], len(ids) > limit

    async def cancel(self, batch_id: str) -> None:
        """Start to cancel a batch; nothing happens if it has ended or is finalizing."""
        await self._moved(
            batch_id,
            "",
            (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS),
            BatchStatus.CANCELLING,
        )

    # ------------------------------------------------------------------ for the runner

    async def take(self) -> str | None:
        """Take a batch that no runner works on, on a lease; None: there is none."""
        taken = await self._call(self._take, [BatchKeys.active], [self.lease_ms, ""])
        return None if taken is None else cast(bytes, taken).decode()

    async def waiting(self) -> int:
        """Return how many batches no runner works on."""
        now_ms = await self._call(self._clock, [BatchKeys.active], [])
        return int(await read(self._redis.zcount(BatchKeys.active, "-inf", now_ms)))

    async def acquire(self, batch_id: str, nonce: str) -> tuple[int, Batch | None]:
        """Become the runner of a batch.

        Returns:
            The time, ms since the epoch, and the batch; None: it is gone.
        """
        now_ms, flat = await self._call(self._acquire, [BatchKeys(batch_id).record], [nonce])
        return now_ms, read_batch(batch_id, dict(zip(flat[::2], flat[1::2], strict=True)))

    async def beat(self, batch_id: str, nonce: str) -> BatchStatus:
        """Extend the lease, and return the batch's status.

        Raises:
            BatchLost: Another runner has it.
        """
        owner, status = await read(
            self._redis.hmget(BatchKeys(batch_id).record, ["owner", "status"])
        )
        if owner is None or owner.decode() != nonce:
            raise BatchLost(batch_id)
        await self._call(self._take, [BatchKeys.active], [self.lease_ms, batch_id])
        await read(self._redis.pexpire(BatchKeys.active, self._ttl_ms))
        return BatchStatus(status.decode())

    async def release(self, batch_id: str) -> None:
        """Release a batch, so that another runner may take it, after those that waited longer."""
        await self._call(self._release, [BatchKeys.active], [batch_id])

    async def end(self, batch_id: str) -> None:
        """Mark a batch as one that needs no more work."""
        await read(self._redis.zrem(BatchKeys.active, batch_id))
        await read(self._redis.unlink(BatchKeys(batch_id).open))

    async def move(
        self,
        batch: Batch,
        nonce: str,
        to: BatchStatus,
        **fields: Any,
    ) -> bool:
        """Change the status from that of `batch` to another; False: it is no longer in that status.

        Raises:
            BatchLost: Another runner has it.
        """
        return await self._moved(batch.id, nonce, (batch.status,), to, **fields)

    async def fault(self, batch_id: str, nonce: str) -> int:
        """Count an unexpected error, and return how many there were since the last progress.

        Raises:
            BatchLost: Another runner has it.
        """
        faults = int(await self._call(self._fault, [BatchKeys(batch_id).record], [nonce]))
        if not faults:
            raise BatchLost(batch_id)
        return faults

    async def give_up(self, batch_id: str, nonce: str, errors: bytes) -> None:
        """End a batch whatever its state; its open lines get no result.

        Args:
            batch_id: The batch.
            nonce: Of the runner.
            errors: Why, as the record keeps it.

        Raises:
            BatchLost: Another runner has it.
        """
        cancelling, rest = (BatchStatus.CANCELLING,), tuple(set(BatchStatus) - ENDED)
        if not await self._moved(batch_id, nonce, cancelling, BatchStatus.CANCELLED, errors=errors):
            await self._moved(batch_id, nonce, rest, BatchStatus.FAILED, errors=errors)

    async def open_lines(self, batch_id: str) -> dict[int, OpenLine]:
        """Return the lines that were started and have no result yet, by number."""
        raw = await read(self._redis.hgetall(BatchKeys(batch_id).open))
        lines = [
            OpenLine(place=Place.parse(place), custom_id=custom_id)
            for place, custom_id in map(json.loads, raw.values())
        ]
        return {line.place.line: line for line in sorted(lines, key=lambda one: one.place)}

    async def open(self, batch: Batch, nonce: str, to: Place, lines: Sequence[OpenLine]) -> None:
        """Record that lines are started, and that the input was read to `to`; repeatable.

        Raises:
            BatchLost: Another runner has it.
        """
        k, pairs = BatchKeys(batch.id), []
        for line in lines:
            pairs += [line.place.line, json.dumps([str(line.place), line.custom_id])]
        args = [nonce, self._ttl_ms, str(batch.cursor), str(to), *pairs]
        if not await self._call(self._open, [k.record, k.open], args):
            raise BatchLost(batch.id)

    async def write_results(
        self, batch: Batch, nonce: str, results: Sequence[LineResult], *, to: Place | None = None
    ) -> tuple[int, int]:
        """Write results, each line's once; with `to`, those of the lines from the cursor to there.

        Returns:
            The sizes of the output and of the error file, bytes.

        Raises:
            BatchLost: Another runner has it.
        """
        k = BatchKeys(batch.id)
        old, new = ("", "") if to is None else (str(batch.cursor), str(to))
        args: list[Any] = [nonce, self._ttl_ms, old, new]
        for r in results:
            args += [r.line, r.file, r.text, r.input_tokens, r.output_tokens]
        reply = await self._call(self._write_results, [k.record, k.open, k.out, k.err], args)
        if reply[0] == b"lost":
            raise BatchLost(batch.id)
        return int(reply[1] or 0), int(reply[2] or 0)

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
        reply = await self._call(self._move, [BatchKeys(batch_id).record], args)
        if reply[0] == b"lost":
            raise BatchLost(batch_id)
        return bool(reply[0] == b"moved")

    async def _call(self, script: StorageScript, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return await script(keys, args)
