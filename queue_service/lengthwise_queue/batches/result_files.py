"""The output and the error file of one batch: counted while they grow, closed at its end.

Their blocks are written by `BatchStore.settle`, together with the counts. Called by `batch_work`.
"""

from __future__ import annotations

import logging
import time
import uuid

from lengthwise_store.batches.store import Batch
from lengthwise_store.errors import StorageFull
from lengthwise_store.files.store import FileStore, StoredFile
from lengthwise_store.keys import BatchKeys

log = logging.getLogger(__name__)

#: The ledger hears of a file when it has grown by so much, bytes, ...
CHARGE_BYTES = 2**20
#: ... and at least this often, s, so that it does not take it for abandoned.
CHARGE_EVERY_S = 60.0


class ResultFiles:
    """See the module."""

    def __init__(self, files: FileStore, batch_id: str, tenant: str) -> None:
        self._files, self._batch_id, self._tenant = files, batch_id, tenant
        self._charged = {"out": (0, 0.0), "err": (0, 0.0)}  #: Bytes, and when.
        self._full: str | None = None  #: The file for which there was no room.

    async def grown(self, out: int, err: int) -> None:
        """Let the ledger know how large they are now, bytes.

        What is there counts, even if there is no room for it: it was paid for.
        """
        await self._grown("out", out)
        await self._grown("err", err)

    async def have_room(self) -> bool:
        """Whether there is room for more results."""
        if self._full is None:
            return True
        charged, _ = self._charged[self._full]
        try:
            await self._files.charge(
                self._file_id(self._full), self._tenant, charged + CHARGE_BYTES
            )
        except StorageFull:
            return False
        self._charged[self._full] = (charged + CHARGE_BYTES, time.monotonic())
        self._full = None
        return True

    async def close(self, batch: Batch, now_ms: int) -> dict[str, str]:
        """Make them files of their owner; again is the same.

        Returns:
            The fields of the batch that name them; one that is empty is none.
        """
        fields: dict[str, str] = {}
        keys = BatchKeys(batch.id)
        for kind, content, size, blocks, name in (
            ("out", keys.out, batch.out_bytes, batch.out_blocks, "output"),
            ("err", keys.err, batch.err_bytes, batch.err_blocks, "error"),
        ):
            if blocks == 0:
                continue
            file = StoredFile(
                id=self._file_id(kind),
                tenant=batch.tenant,
                filename=f"{batch.id}_{name}.jsonl",
                purpose="batch_output",
                bytes=size,
                blocks=blocks,
                created_ms=now_ms,
                expires_ms=now_ms + batch.output_ttl_ms,
                content=content,
            )
            await self._files.commit(file, batch.output_ttl_ms, forced=True)
            fields[f"{name}_file_id"] = file.id
        return fields

    async def _grown(self, kind: str, size: int) -> None:
        charged, at_s = self._charged[kind]
        now_s = time.monotonic()
        if size == 0 or (size - charged < CHARGE_BYTES and now_s < at_s + CHARGE_EVERY_S):
            return
        self._charged[kind] = (size, now_s)
        file_id = self._file_id(kind)
        try:
            await self._files.charge(file_id, self._tenant, size)
        except StorageFull:
            await self._files.charge(file_id, self._tenant, size, forced=True)
            self._full = kind
            log.warning(
                "batch waits for room for its results",
                extra={"batch_id": self._batch_id, "tenant": self._tenant},
            )

    def _file_id(self, kind: str) -> str:
        return f"file-{uuid.uuid5(uuid.NAMESPACE_OID, f'{self._batch_id} {kind}').hex}"
