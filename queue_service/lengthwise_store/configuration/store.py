"""Reads and writes of the settings of queues. Every write compares and sets, so none is lost.

Two writers that change different fields at the same time both succeed: the second one merges into
what the first one wrote. `queue_control.py` builds on it what people do with a queue.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from lengthwise_store.base import StoreBase
from lengthwise_store.codec.settings import Document, read_document, write_document
from lengthwise_store.keys import PUBLISHED, QUEUES
from lengthwise_store.redis.errors import read
from lengthwise_store.redis.settings import RedisAddress
from lengthwise_store.settings import StoreSettings
from lengthwise_store.storage_scripts import StorageScript

#: Computes what to write from what is there, None: there is no such queue. Returns None to write
#: nothing.
Change = Callable[[Document | None], Document | None]


class QueueConfiguration(StoreBase):
    """The methods of `JobStore` about what is configured for a queue."""

    def __init__(
        self, address: RedisAddress, settings: StoreSettings, now_ms: float | None
    ) -> None:
        """Open nothing yet; see `JobStore` for the arguments."""
        super().__init__(address, settings, now_ms)
        self._swap = StorageScript(self._queue_settings, "configuration/swap")
        self._publish = StorageScript(self._queue_settings, "configuration/publish")
        #: What this process published, by queue and worker.
        self._published: dict[tuple[str, str], str] = {}

    async def publish_engine_facts(
        self, queue: str, worker_id: str, facts: Mapping[str, Any]
    ) -> bool:
        """Publish what the engine of a worker reports, such as `max_model_len`.

        What people set counts first. The last worker that starts counts among several. Repeat the
        call every few seconds: it writes again only if nothing is published any more, or if the
        facts have changed. Publish all facts in one call.

        Args:
            queue: Its name.
            worker_id: Which worker publishes.
            facts: By name, JSON values.

        Returns:
            False: there is no such queue yet.
        """
        text = json.dumps({"facts": dict(facts), "worker": worker_id}, sort_keys=True)
        said = self._published.get((queue, worker_id)) == text
        done = await self._publish([QUEUES, PUBLISHED], [queue, text, "" if said else "1"])
        if done:
            self._published[queue, worker_id] = text
        return bool(done)

    async def _change_document(
        self, name: str, change: Change
    ) -> tuple[Document | None, Document | None]:
        """Change what people set, and return what was there and what is there now.

        `change` is called again when another writer came first.
        """
        while True:
            raw = await read(self._queue_settings.hget(QUEUES, name))
            before = None if raw is None else read_document(raw)
            after = change(before)
            if after is None:
                return before, before
            if await self._swap([QUEUES], [name, raw or b"", write_document(after)]):
                return before, after

    async def _forget_queue(self, name: str) -> None:
        pipe = self._queue_settings.pipeline(transaction=True)
        pipe.hdel(QUEUES, name)
        pipe.hdel(PUBLISHED, name)
        await read(pipe.execute())
