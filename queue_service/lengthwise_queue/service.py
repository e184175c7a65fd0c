"""What every route of one app shares: the store, the predictor, the metrics; and its background.

Made by `app.create_app`, reached by the routes through `of(request)`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import cast

from starlette.requests import Request

from lengthwise_queue.admission.prompt_length import PromptLength
from lengthwise_queue.admission.retry_after import RetryAfter
from lengthwise_queue.background.idle_queue_ticker import IdleQueueTicker
from lengthwise_queue.metrics import Metrics
from lengthwise_queue.prediction.client import PredictorClient, Predictors
from lengthwise_queue.prediction.fallback import FallbackController
from lengthwise_queue.scheduling.snapshot import QueueCache
from lengthwise_queue.settings import Settings
from lengthwise_queue.tenants.registry import TenantRegistry
from lengthwise_store.batches.store import BatchStore
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.files.store import FileLimits, FileStore
from lengthwise_store.responses.store import ResponseStore
from lengthwise_store.store import JobStore

log = logging.getLogger(__name__)

#: How long the cancellation of a hung-up client's job is tried while Redis is away, s.
CANCEL_FOR_S = 30.0

#: Pause between the tries, s.
CANCEL_EVERY_S = 0.5

#: How long the background may take to end when the app stops, s.
BACKGROUND_END_S = 2.0


class Service:
    """The parts of one app."""

    def __init__(self, settings: Settings, store: JobStore, tenants: TenantRegistry) -> None:
        self.settings = settings
        self.tenants = tenants
        self.store: JobStore = store
        self.files = FileStore(
            store.client,
            FileLimits(
                tenant_bytes=settings.tenant_file_bytes,
                total_bytes=settings.total_file_bytes,
                ttl_ms=settings.file_ttl_s * 1000,
            ),
            store.confirm,
        )
        longest_s = max(settings.file_ttl_s, settings.batch_completion_s)
        self.batches = BatchStore(
            store.client,
            ttl_ms=(longest_s + 86_400) * 1000,
            lease_ms=settings.batch_lease_ms,
            confirm=store.confirm,
        )
        self.responses = ResponseStore(store.client, store.confirm)
        self.batch_made = asyncio.Event()  #: There may be a batch to work on.
        self.metrics = Metrics(tenants)
        self.queue_cache = QueueCache(store)
        self.prompt_length = PromptLength()
        self.predictors = Predictors(
            settings.predictor_url,
            lambda url: PredictorClient(
                url,
                timeout_ms=settings.predictor_timeout_ms,
                on_answer=self.metrics.predictor_latency.observe,
                on_fallback=self.metrics.fell_back,
            ),
        )
        self.retry_after = RetryAfter()
        self.draining = asyncio.Event()  #: The process is to stop: long readers go elsewhere.
        self._background: set[asyncio.Task[None]] = set()
        self._fallback_controller = FallbackController(store, self.queue_cache)
        self._idle_queue_ticker = IdleQueueTicker(store)
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin with what runs as long as the app."""
        for work in (
            self._fallback_controller.run(),
            self._idle_queue_ticker.run(),
            self.tenants.keep_current(),
        ):
            self._loops.append(asyncio.create_task(work))

    def in_background(self, work: Coroutine[object, object, None]) -> None:
        """Run something that no client waits for."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def withdraw(self, queue: str, job_id: str, reason: str) -> None:
        """Cancel a job that nobody wants any more, also over a short absence of Redis."""
        tries = int(CANCEL_FOR_S / CANCEL_EVERY_S)
        for _ in range(tries):
            try:
                state = await self.store.cancel(queue, job_id)
            except StoreUnavailable:
                await asyncio.sleep(CANCEL_EVERY_S)
                continue
            log.info(
                "job withdrawn",
                extra={"job_id": job_id, "queue": queue, "reason": reason, "state": state},
            )
            return
        log.warning(
            "job not withdrawn, Redis is away; it ends by itself",
            extra={"job_id": job_id, "queue": queue, "reason": reason},
        )

    async def aclose(self) -> None:
        """End the background and close every connection."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        if self._background:
            _, late = await asyncio.wait(self._background, timeout=BACKGROUND_END_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self.predictors.aclose()
        await self.store.aclose()


def of(request: Request) -> Service:
    """The service that a request came to."""
    return cast(Service, request.app.state.service)
