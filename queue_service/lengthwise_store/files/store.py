"""Files in Redis: the input and the output of batches. At most one block of a file is in memory.

A file's content is a hash of numbered blocks under a hash tag of its own. A ledger in one slot has
the size and expiry of each file, and the sums per tenant and of all files. It corrects itself,
because a file that was never completed leaves it like one that expired. Called by the routes of
files and by the batch runner.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lengthwise_store.errors import StorageFull
from lengthwise_store.files.file import FileGone, StoredFile, read_file
from lengthwise_store.keys import FileKeys
from lengthwise_store.redis.errors import read
from lengthwise_store.storage_scripts import Confirm, StorageScript, without_confirmation

#: Size of an uploaded file's blocks, bytes; what an upload or a download holds in memory.
BLOCK_BYTES = 2**20

#: An incomplete file that does not grow for this long is deleted, ms.
UNFINISHED_TTL_MS = 600_000

#: The longest lifetime that OpenAI lets a client ask for, ms.
LONGEST_TTL_MS = 30 * 86_400_000

#: What every file is charged besides its content, bytes, so that empty files are bounded too.
OVERHEAD_BYTES = 1024

#: Records that a listing reads at once.
_PAGE = 500


@dataclass(frozen=True, kw_only=True)
class FileLimits:
    """The bounds on files; bytes and ms."""

    tenant_bytes: int
    total_bytes: int
    ttl_ms: int


class FileStore:
    """The files of one Redis. Methods raise `StoreUnavailable` when Redis does not answer."""

    def __init__(
        self, client: Any, limits: FileLimits, confirm: Confirm = without_confirmation
    ) -> None:
        """Connect on first use.

        Args:
            client: An asyncio client of redis-py, with bytes for replies.
            limits: Bounds on all files.
            confirm: Awaited before `commit` returns.
        """
        self._confirm = confirm
        self.limits = limits
        self._redis = client
        self._charge = StorageScript(client, "files/charge")
        self._forget = StorageScript(client, "files/forget")

    # ------------------------------------------------------------------ writing

    def writer(self, *, tenant: str, filename: str, purpose: str, ttl_ms: int) -> FileWriter:
        """Return a writer of a new file, which exists for clients once it is committed."""
        return FileWriter(self, tenant=tenant, filename=filename, purpose=purpose, ttl_ms=ttl_ms)

    async def charge(self, file_id: str, tenant: str, size: int, *, forced: bool = False) -> int:
        """Record the size of an unfinished file in the ledger, and return the time, ms.

        Args:
            file_id: The file.
            tenant: Its owner.
            size: Bytes of content so far.
            forced: The content is written already, so it counts even above the bounds.

        Raises:
            StorageFull: A bound would be exceeded; nothing was written.
        """
        return await self._charge_ledger(file_id, tenant, size, UNFINISHED_TTL_MS, forced=forced)

    async def commit(self, file: StoredFile, ttl_ms: int, *, forced: bool = False) -> None:
        """Complete a file whose blocks are written; doing it again changes nothing.

        Raises:
            StorageFull: A bound would be exceeded.
        """
        record = json.dumps(asdict(file), separators=(",", ":"))
        await self._charge_ledger(
            file.id,
            file.tenant,
            file.bytes,
            ttl_ms,
            record=record,
            created_ms=file.created_ms,
            forced=forced,
        )
        # Last: after a crash before this, no client has the file's id, and its blocks expire. In
        # the other order they would stay without being counted.
        await read(self._redis.pexpire(file.content, ttl_ms))
        await self._confirm(FileKeys.sizes, file.content)

    async def put_block(self, content: str, number: int, block: bytes) -> None:
        """Write one block of an unfinished file; writing it again changes nothing."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(content, str(number), block)
        pipe.pexpire(content, UNFINISHED_TTL_MS)
        await read(pipe.execute())

    async def drop(self, file_id: str, content: str) -> bool:
        """Delete a file, complete or not; False: the ledger did not have it."""
        known = bool(await self._forget(FileKeys.ledger, [FileKeys.prefix, file_id]))
        await read(self._redis.unlink(content))
        return known

    async def _charge_ledger(
        self,
        file_id: str,
        tenant: str,
        size: int,
        ttl_ms: int,
        *,
        record: str = "",
        created_ms: int = 0,
        forced: bool,
    ) -> int:
        limits = self.limits
        keep_ms = max(LONGEST_TTL_MS, limits.ttl_ms) + 86_400_000
        caps = ["", ""] if forced else [limits.tenant_bytes, limits.total_bytes]
        counted = size + OVERHEAD_BYTES
        args = [FileKeys.prefix, file_id, tenant, counted, ttl_ms, *caps]
        answer = await self._charge(FileKeys.ledger, [*args, keep_ms, created_ms, record])
        if answer[0] == b"full":
            raise _full(answer[1] == b"tenant", limits)
        return int(answer[1])

    # ------------------------------------------------------------------ reading

    async def get(self, tenant: str, file_id: str) -> StoredFile | None:
        """Return a tenant's complete file; None: it has none of that id."""
        raw = await read(self._redis.get(FileKeys.record(file_id)))
        file = None if raw is None else read_file(raw)
        return file if file is not None and file.tenant == tenant else None

    async def page(
        self,
        tenant: str,
        *,
        purpose: str | None,
        after: str | None,
        limit: int,
        order: Literal["asc", "desc"],
    ) -> tuple[list[StoredFile], bool]:
        """Return a page of a tenant's files by age, and whether more follow."""
        of, newest_first = FileKeys.of(tenant), order == "desc"
        start = 0
        if after is not None:
            rank = self._redis.zrevrank if newest_first else self._redis.zrank
            at = await read(rank(of, after))
            start = 0 if at is None else at + 1
        found: list[StoredFile] = []
        while len(found) <= limit:
            ids = await read(self._redis.zrange(of, start, start + _PAGE - 1, desc=newest_first))
            if not ids:
                return found, False
            start += len(ids)
            raws = await read(self._redis.mget([FileKeys.record(i.decode()) for i in ids]))
            files = (read_file(raw) for raw in raws if raw is not None)
            found += [f for f in files if f is not None and purpose in (None, f.purpose)]
        return found[:limit], True

    async def read(self, file: StoredFile, *, first: int = 0) -> AsyncIterator[bytes]:
        """Yield the blocks of a file from number `first` on, reading about `BLOCK_BYTES` at a time.

        Raises:
            FileGone: It was deleted in between.
        """
        # The blocks of a batch's output are as large as its answers: read many small ones together.
        average = max(file.bytes // max(file.blocks, 1), 1)
        together = max(BLOCK_BYTES // average, 1)
        for start in range(first, file.blocks, together):
            fields = [str(n) for n in range(start, min(start + together, file.blocks))]
            for block in await read(self._redis.hmget(file.content, fields)):
                if block is None:
                    raise FileGone(file.id)
                yield block


class FileWriter:
    """One upload: `write` the content as it comes, then `commit`; or `abandon` it."""

    def __init__(
        self, store: FileStore, *, tenant: str, filename: str, purpose: str, ttl_ms: int
    ) -> None:
        self.id = f"file-{uuid.uuid4().hex}"
        self.filename = filename
        self.purpose = purpose
        self.ttl_ms = ttl_ms
        self.size = 0
        self._store = store
        self._tenant = tenant
        self._content = FileKeys.content(self.id)
        self._buffer = bytearray()
        self._blocks = 0
        self._created_ms: int | None = None

    async def write(self, data: bytes) -> None:
        """Append some content.

        Raises:
            StorageFull: It would exceed a bound.
        """
        self._buffer += data
        self.size += len(data)
        while len(self._buffer) >= BLOCK_BYTES:
            block = bytes(self._buffer[:BLOCK_BYTES])
            del self._buffer[:BLOCK_BYTES]
            await self._put(block)

    async def commit(self) -> StoredFile:
        """Write the rest, and return the complete file.

        Raises:
            StorageFull: The rest would exceed a bound.
        """
        if self._buffer or self._created_ms is None:
            await self._put(bytes(self._buffer))
            self._buffer.clear()
        created_ms = self._created_ms or 0
        file = StoredFile(
            id=self.id,
            tenant=self._tenant,
            filename=self.filename,
            purpose=self.purpose,
            bytes=self.size,
            blocks=self._blocks,
            created_ms=created_ms,
            expires_ms=created_ms + self.ttl_ms,
            content=self._content,
        )
        await self._store.commit(file, self.ttl_ms)
        return file

    async def abandon(self) -> None:
        """Delete what was written; without this call it expires in ten minutes."""
        if self._created_ms is not None:
            await self._store.drop(self.id, self._content)

    async def _put(self, block: bytes) -> None:
        now_ms = await self._store.charge(self.id, self._tenant, self.size)
        self._created_ms = now_ms if self._created_ms is None else self._created_ms
        await self._store.put_block(self._content, self._blocks, block)
        self._blocks += 1


def _full(tenant: bool, limits: FileLimits) -> StorageFull:
    if tenant:
        return StorageFull(
            f"Your files would take more than {limits.tenant_bytes} bytes. Delete some with "
            "DELETE /v1/files/{id}; GET /v1/files lists them.",
        )
    return StorageFull(
        f"All files together would take more than {limits.total_bytes} bytes, the bound of this "
        "service. Delete files that you no longer need, or ask its operator for more room."
    )
