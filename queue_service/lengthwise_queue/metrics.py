"""The queue service's metrics: every name, unit and label in one place.

One registry per app, so that two apps in one process (as in the tests) do not meet. The label
`service` is the name of a queue that exists, else "": never what a client made up.
"""

from __future__ import annotations

import math
from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from lengthwise_queue.background import store_metrics, tenant_metrics
from lengthwise_queue.errors import BadRequest, KeyConflict, QueueOverloaded
from lengthwise_queue.prediction.client import Fallback
from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_queue.tenants.registry import TenantRegistry
from lengthwise_store.errors import LengthwiseError, StorageFull

#: Waiting for an answer takes between nothing and the better part of an hour, s.
_WAIT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)

#: A prediction takes milliseconds, s; the deadline is 0.02 by default.
_PREDICTOR_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.05, 0.1, 1)

_TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)

#: Upper bounds of the buckets by which waits are compared, predicted tokens.
_LENGTHS = ((64, "0-64"), (256, "64-256"), (1024, "256-1024"))


#: The names of these groups, the shortest first.
LENGTH_BUCKETS = (*(name for _, name in _LENGTHS), "1024+")

#: No jobs wait anywhere.
EMPTY: Mapping[str, Sequence[float]] = MappingProxyType({})


def length_bucket(predicted_tokens: float) -> str:
    """Which group of lengths a job belongs to."""
    return next((name for below, name in _LENGTHS if predicted_tokens < below), "1024+")


def refusal(error: LengthwiseError) -> str:
    """The outcome of a request that was not accepted, as a label."""
    if isinstance(error, (BadRequest, StorageFull, KeyConflict)):
        return "invalid"
    return "refused" if isinstance(error, QueueOverloaded) else "unavailable"


class Metrics:
    """All metrics of one app."""

    def __init__(self, tenants: TenantRegistry) -> None:
        self.registry = CollectorRegistry()
        self.tenants = tenant_metrics.TenantMetrics(tenants)
        self.registry.register(self.tenants)
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
        self.predicted = self._histogram(
            "predicted_tokens", "Predicted length of the jobs accepted here", _TOKENS, "service"
        )
        self.overtake_bound = self._histogram(
            "overtake_bound_seconds",
            "How much later a job may be accepted and still overtake, of the jobs accepted here",
            _WAIT_S,
            "service",
        )
        self.fallbacks = self._counter(
            "predictor_fallbacks_total", "Jobs priced without a prediction", "reason"
        )
        self.late_predictions = self._counter(
            "late_predictions_total",
            "Predictions that were not there at the deadline, by what became of them",
            "outcome",
        )
        self.unauthorized = self._counter(
            "unauthorized_total", "Requests without an API key, or with a wrong one"
        )
        self._queues = store_metrics.QueueMetrics(LENGTH_BUCKETS)
        self.registry.register(self._queues)
        self.store_up = Gauge(
            "lengthwise_store_up", "1 if Redis answered this scrape", registry=self.registry
        )
        self._memory = Gauge(
            "lengthwise_store_memory_bytes",
            "Memory that Redis uses, of the fullest primary at the last readiness probe",
            registry=self.registry,
        )
        self._memory_limit = Gauge(
            "lengthwise_store_memory_limit_bytes",
            "Its maxmemory; +Inf without one",
            registry=self.registry,
        )
        for outcome in ("repriced", "too_late", "never_came", "store_away"):
            self.late_predictions.labels(outcome)
        for why in Fallback:  # a counter that is absent cannot be alerted on
            self.fallbacks.labels(why)

    @contextmanager
    def counting_refusals(self) -> Iterator[None]:
        """Count a request that is refused before its queue is known."""
        try:
            yield
        except LengthwiseError as exc:
            self.requests.labels("", refusal(exc)).inc()
            raise

    def fell_back(self, why: Fallback) -> None:
        """Count a job without a prediction."""
        self.fallbacks.labels(why).inc()

    def show_memory(self, primaries: Iterable[tuple[int, int]]) -> None:
        """What `JobStore.memory` says."""
        limited = [(used, limit or math.inf) for used, limit in primaries]
        if limited:
            used, limit = max(limited, key=lambda one: (one[0] / one[1], one[0]))
            self._memory.set(used)
            self._memory_limit.set(limit)

    def expose(
        self,
        snapshots: Iterable[QueueSnapshot] | None,
        waiting: Mapping[str, Sequence[float]] = EMPTY,
    ) -> bytes:
        """The text of a scrape.

        Args:
            snapshots: The queues as they are now; None: Redis is away.
            waiting: Of each queue with waiting jobs, the predicted tokens of a sample of them.
        """
        self.store_up.set(snapshots is not None)
        self.tenants.snapshots = self._queues.snapshots = list(
            snapshots or ()
        )  # a store that is away shows nothing stale
        self._queues.waiting = {
            name: Counts(map(length_bucket, lengths)) for name, lengths in waiting.items()
        }
        return generate_latest(self.registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"lengthwise_{name}", what, labels, registry=self.registry)

    def _histogram(
        self, name: str, what: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"lengthwise_{name}", what, labels, registry=self.registry, buckets=buckets
        )
