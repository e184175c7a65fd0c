"""The queue service's metrics: every name, unit and label.

Each app has a registry of its own, because tests run two apps in one process. The label `service`
is the name of a queue that exists, else "", so that clients cannot add values.
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
from lengthwise_queue.background.withdrawals import Withdrawal
from lengthwise_queue.errors import BadRequest, KeyConflict, QueueOverloaded
from lengthwise_queue.prediction.client import Fallback
from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_queue.tenants.registry import TenantRegistry
from lengthwise_store.errors import LengthwiseError, StorageFull

#: Buckets for waits, from milliseconds to half an hour, s.
_WAIT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)

#: Buckets for predictions, which take milliseconds, s. The deadline is 0.02 by default.
_PREDICTOR_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.05, 0.1, 1)

#: Buckets for fits of what a queue learns, s.
_FIT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

_TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)

#: Upper bounds, in predicted tokens, of the groups of jobs whose waits are compared.
_LENGTHS = ((64, "0-64"), (256, "64-256"), (1024, "256-1024"))

#: Names of these groups, the shortest first.
LENGTH_BUCKETS = (*(name for _, name in _LENGTHS), "1024+")

#: The sample of waiting jobs when no job waits.
EMPTY: Mapping[str, Sequence[float]] = MappingProxyType({})


def length_bucket(predicted_tokens: float) -> str:
    """Return the group of lengths that a job belongs to."""
    return next((name for below, name in _LENGTHS if predicted_tokens < below), "1024+")


def refusal(error: LengthwiseError) -> str:
    """Return the label `outcome` of a request that was not accepted."""
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
            "requests_total", "Requests that have ended, by outcome", "service", "outcome"
        )
        self.ttft = self._histogram(
            "ttft_seconds",
            "Time from a request to the first piece of its answer",
            _WAIT_S,
            "service",
        )
        self.e2e = self._histogram(
            "e2e_seconds", "Time from a request to the end of its answer", _WAIT_S, "service"
        )
        self.queue_wait = self._histogram(
            "queue_wait_seconds",
            "Time from acceptance to the last claim, of jobs whose client waited at this replica",
            _WAIT_S,
            "service",
            "length_bucket",
        )
        self.predictor_latency = self._histogram(
            "predictor_latency_seconds",
            "Duration of the calls that the predictor answered",
            _PREDICTOR_S,
        )
        self.predictor_error = self._histogram(
            "predictor_error_tokens",
            "Absolute error of the predicted length, of jobs whose client waited at this replica",
            _TOKENS,
            "service",
        )
        self.predicted = self._histogram(
            "predicted_tokens",
            "Predicted length of the jobs that this replica accepted",
            _TOKENS,
            "service",
        )
        self.overtake_bound = self._histogram(
            "overtake_bound_seconds",
            "How much later another job can be accepted and still overtake, of jobs accepted here",
            _WAIT_S,
            "service",
        )
        self.fallbacks = self._counter(
            "predictor_fallbacks_total", "Jobs priced without a prediction, by reason", "reason"
        )
        self.late_predictions = self._counter(
            "late_predictions_total",
            "Predictions that missed the deadline, by outcome",
            "outcome",
        )
        self.learning_fit = self._histogram(
            "learning_fit_seconds",
            "Duration of the fits of this replica to the finished jobs of a queue",
            _FIT_S,
        )
        self.unauthorized = self._counter(
            "unauthorized_total", "Requests whose API key was missing or wrong"
        )
        self._withdrawals = self._counter(
            "withdrawals_total", "Jobs that no client waited for any more, by outcome", "outcome"
        )
        self.withdrawals_pending = Gauge(
            "lengthwise_withdrawals_pending",
            "Jobs that no client waits for and that are still to be cancelled",
            registry=self.registry,
        )
        self._queues = store_metrics.QueueMetrics(LENGTH_BUCKETS)
        self.registry.register(self._queues)
        self.store_up = Gauge(
            "lengthwise_store_up", "1 if Redis answered this scrape, else 0", registry=self.registry
        )
        self._memory = Gauge(
            "lengthwise_store_memory_bytes",
            "Memory that the fullest Redis primary used at the last readiness probe",
            registry=self.registry,
        )
        self._memory_limit = Gauge(
            "lengthwise_store_memory_limit_bytes",
            "maxmemory of that Redis primary; +Inf if it has none",
            registry=self.registry,
        )
        for outcome in ("repriced", "too_late", "never_came", "store_away"):
            self.late_predictions.labels(outcome)
        for withdrawal in Withdrawal:
            self._withdrawals.labels(withdrawal)
        for reason in Fallback:  # an alert cannot use a counter that does not exist yet
            self.fallbacks.labels(reason)

    @contextmanager
    def counting_refusals(self) -> Iterator[None]:
        """Count a request that is refused before its queue is known."""
        try:
            yield
        except LengthwiseError as exc:
            self.requests.labels("", refusal(exc)).inc()
            raise

    def fell_back(self, reason: Fallback) -> None:
        """Count a job that was priced without a prediction."""
        self.fallbacks.labels(reason).inc()

    def withdrew(self, outcome: Withdrawal) -> None:
        """Count a job whose withdrawal ended."""
        self._withdrawals.labels(outcome).inc()

    def show_memory(self, primaries: Iterable[tuple[int, int]]) -> None:
        """Set the gauges of Redis's memory.

        Args:
            primaries: `JobStore.memory`: used bytes and maxmemory, bytes, of each primary.
        """
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
        """Return the text of a scrape.

        Args:
            snapshots: The current queues; None: Redis does not answer.
            waiting: For each queue with waiting jobs, the predicted tokens of a sample of them.
        """
        self.store_up.set(snapshots is not None)
        # Without Redis, no stale values are shown.
        self.tenants.snapshots = self._queues.snapshots = list(snapshots or ())
        self._queues.waiting = {
            name: Counts(map(length_bucket, lengths)) for name, lengths in waiting.items()
        }
        return generate_latest(self.registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"lengthwise_{name}", help_text, labels, registry=self.registry)

    def _histogram(
        self, name: str, help_text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"lengthwise_{name}", help_text, labels, registry=self.registry, buckets=buckets
        )
