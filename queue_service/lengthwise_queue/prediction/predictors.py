"""The predictors of all queues. Called by `admission.submit` for each job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.prediction.client import PredictorClient


class Predictors:
    """The predictors of all queues: the shared one, and those that a queue has for itself.

    Each has its own connections and circuit breaker, so that a failure affects only its queues.

    Args:
        shared_url: Of the shared predictor; None: there is none.
        make: Makes the client for a URL.
    """

    def __init__(
        self, shared_url: str | None, make: Callable[[str | None], PredictorClient]
    ) -> None:
        self._make = make
        self._shared = make(shared_url)
        self._own: dict[str, PredictorClient] = {}

    def of(self, settings: QueueSettings) -> PredictorClient:
        """Return the predictor of a queue with these settings."""
        url = settings.predictor_url
        if url is None:
            return self._shared
        # Only an admin sets URLs, so there are about as many as queues.
        if url not in self._own:
            self._own[url] = self._make(url or None)
        return self._own[url]

    async def aclose(self) -> None:
        """Close the connections to all predictors."""
        await asyncio.gather(*(c.aclose() for c in (self._shared, *self._own.values())))
