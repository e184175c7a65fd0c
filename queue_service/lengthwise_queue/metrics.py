"""The queue service's metrics: every name, unit and label in one place.

One registry per app, so that two apps in one process (as in the tests) do not meet. The label
`service` is the name of a queue that exists, else "": never what a client made up.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from lengthwise_queue import pricing
from lengthwise_queue.errors import BadRequest, KeyConflict, LengthwiseError, QueueOverloaded
from lengthwise_queue.predictor_client import Fallback
from lengthwise_queue.queue_book import Page

#: Waiting for an answer takes between nothing and the better part of an hour, s.
_WAIT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)

#: A prediction takes milliseconds, s; the deadline is 0.02 by default.
_PREDICTOR_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.05, 0.1, 1)

_TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)

#: Upper bounds of the buckets by which waits are compared, predicted tokens.
_LENGTHS = ((64, "0-64"), (256, "64-256"), (1024, "256-1024"))


def length_bucket(predicted_tokens: float) -> str:
    """Which group of lengths a job belongs to."""
    return next((name for below, name in _LENGTHS if predicted_tokens < below), "1024+")


def refusal(error: LengthwiseError) -> str:
    """The outcome of a request that was not accepted, as a label."""
    if isinstance(error, (BadRequest, KeyConflict)):
        return "invalid"
    return "refused" if isinstance(error, QueueOverloaded) else "unavailable"


class Metrics:
    """All metrics of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter(
            "requests_total", "Requests by how they ended", "service", "outcome"
        )
        self.ttft = self._histogram(
            "ttft_seconds", "From the request to the first piece of its answer", _WAIT_S, "service"
        )
        self.e2e = self._histogram(
            "e2e_seconds", "From the request to the end of its answer", _WAIT_S, "service"
        )
        self.queue_wait = self._histogram(
            "queue_wait_seconds",
            "From acceptance to the last claim, of jobs somebody here waited for",
            _WAIT_S,
            "service",
            "length_bucket",
        )
        self.predictor_latency = self._histogram(
            "predictor_latency_seconds", "Answered calls to the predictor", _PREDICTOR_S
        )
        self.predictor_error = self._histogram(
            "predictor_error_tokens",
            "Absolute error of the predicted length, of jobs somebody here waited for",
            _TOKENS,
            "service",
        )
        self.fallbacks = self._counter(
            "predictor_fallbacks_total", "Jobs priced without a prediction", "reason"
        )
        self.depth = self._gauge("queue_depth", "Jobs waiting")
        self.backlog_tokens = self._gauge(
            "queue_backlog_tokens", "Predicted tokens of the jobs waiting"
        )
        self.backlog_seconds = self._gauge(
            "queue_backlog_seconds", "Time to serve the jobs waiting; no sample without a worker"
        )
        self.oldest_wait = self._gauge("queue_oldest_wait_seconds", "Age of the oldest job waiting")
        self.in_flight = self._gauge("inflight", "Jobs leased to a worker")
        self.store_up = Gauge(
            "lengthwise_store_up", "1 if Redis answered this scrape", registry=self.registry
        )
        for why in Fallback:  # a counter that is absent cannot be alerted on
            self.fallbacks.labels(why)

    def fell_back(self, why: Fallback) -> None:
        """Count a job without a prediction."""
        self.fallbacks.labels(why).inc()

    def expose(self, pages: Iterable[Page] | None) -> bytes:
        """The text of a scrape, with the queues as they are now; None: Redis is away."""
        self.store_up.set(pages is not None)
        for gauge in self._per_queue():
            gauge.clear()  # a queue that is gone, or a store that is away, shows nothing stale
        for page in pages or ():
            self._show(page)
        return generate_latest(self.registry)

    def _show(self, page: Page) -> None:
        name, stats = page.queue.name, page.stats
        self.depth.labels(name).set(stats.depth)
        self.backlog_tokens.labels(name).set(stats.backlog_tokens)
        self.in_flight.labels(name).set(stats.in_flight)
        oldest_ms = stats.oldest_accepted_ms
        waited_ms = 0.0 if oldest_ms is None else max(stats.now_ms - oldest_ms, 0.0)
        self.oldest_wait.labels(name).set(waited_ms / 1000)
        backlog_ms = pricing.drain_ms(page.settings, stats, stats.backlog_tokens)
        if backlog_ms is not None:
            self.backlog_seconds.labels(name).set(backlog_ms / 1000)

    def _per_queue(self) -> list[Gauge]:
        return [
            self.depth,
            self.backlog_tokens,
            self.backlog_seconds,
            self.oldest_wait,
            self.in_flight,
        ]

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"lengthwise_{name}", what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(f"lengthwise_{name}", what, ["service"], registry=self.registry)

    def _histogram(
        self, name: str, what: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"lengthwise_{name}", what, labels, registry=self.registry, buckets=buckets
        )
