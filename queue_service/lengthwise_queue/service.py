"""The parts of one app that all its routes share: stores, queue cache, predictors, admission.

Made by `app.create_app`; a route gets it with `of(request)`.
"""

from __future__ import annotations

import asyncio
from typing import cast

from starlette.requests import Request

from lengthwise_queue.admission.prompt_length import PromptLength
from lengthwise_queue.admission.submit import Admission
from lengthwise_queue.background.fallback_controller import FallbackController
from lengthwise_queue.background.idle_queue_ticker import IdleQueueTicker
from lengthwise_queue.background.scrapes import Scrapes
from lengthwise_queue.background.tasks import BackgroundTasks
from lengthwise_queue.background.withdrawals import Withdrawals
from lengthwise_queue.learning.forecaster import Forecaster
from lengthwise_queue.learning.learner import Learner
from lengthwise_queue.metrics import Metrics
from lengthwise_queue.prediction.client import PredictorClient
from lengthwise_queue.prediction.predictors import Predictors
from lengthwise_queue.scheduling.snapshot import QueueCache
from lengthwise_queue.settings import Settings
from lengthwise_queue.tenants.registry import TenantRegistry
from lengthwise_store.batches.store import BatchStore
from lengthwise_store.files.store import FileLimits, FileStore
from lengthwise_store.learning.store import LearningStore
from lengthwise_store.responses.store import ResponseStore
from lengthwise_store.store import JobStore


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
        self.scrapes = Scrapes(
            store, self.queue_cache, self.metrics.expose, age_s=settings.metrics_age_s
        )
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
        self.tasks = BackgroundTasks()
        learning = LearningStore(store.client)
        secret = settings.learning_key
        self.forecaster = Forecaster(
            learning,
            key=None if secret is None else secret.get_secret_value().encode(),
            start=self.tasks.start,
        )
        self.learning = learning
        self.withdrawals = Withdrawals(store, self.metrics.withdrew)
        self.metrics.withdrawals_pending.set_function(lambda: len(self.withdrawals))
        self.admission = Admission(
            store=store,
            queue_cache=self.queue_cache,
            predictors=self.predictors,
            forecaster=self.forecaster,
            prompt_length=self.prompt_length,
            weight_of=tenants.weight,
            metrics=self.metrics,
            tasks=self.tasks,
            withdrawals=self.withdrawals,
        )
        self.draining = asyncio.Event()  #: The process stops soon: streams reconnect elsewhere.
        self.grace_over = asyncio.Event()  #: The process stops now: open answers end.
        self._fallback_controller = FallbackController(store, self.queue_cache)
        self._idle_queue_ticker = IdleQueueTicker(store)
        self._learner = Learner(
            store,
            learning,
            self.queue_cache,
            self.forecaster,
            on_fit=self.metrics.learning_fit.observe,
        )
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the periodic jobs, which run as long as the app."""
        for work in (
            self._fallback_controller.run(),
            self._idle_queue_ticker.run(),
            self._learner.run(),
            self.tenants.keep_current(),
        ):
            self._loops.append(asyncio.create_task(work))

    async def aclose(self) -> None:
        """End the background work and close every connection."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.tasks.aclose()
        await self.withdrawals.aclose()
        await self.predictors.aclose()
        await self.store.aclose()


def of(request: Request) -> Service:
    """Return the service of the app that received a request."""
    return cast(Service, request.app.state.service)
