"""Metrics of the predictor; each app has its own registry, so a process may hold two."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_PREFIX = "lengthwise_predictor"
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)


class Metrics:
    """The metrics of one app; the names are part of the public interface."""

    def __init__(self) -> None:
        """Register all metrics in a new registry."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            f"{_PREFIX}_requests_total",
            "Requests by path and HTTP status",
            ["path", "status"],
            registry=self.registry,
        )
        self.latency = Histogram(
            f"{_PREFIX}_latency_seconds",
            "Time to answer a prediction request, queueing and inference included",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            f"{_PREFIX}_batch_size",
            "Texts in one forward pass",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            f"{_PREFIX}_batch_seconds",
            "Tokenising and forward pass of one batch",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.unknown_llm = Counter(
            f"{_PREFIX}_unknown_llm_total",
            "Predictions for an LLM that the model was not trained on",
            registry=self.registry,
        )
        self.waiting = Gauge(
            f"{_PREFIX}_waiting", "Texts waiting for a forward pass", registry=self.registry
        )
        self.info = Gauge(
            f"{_PREFIX}_model_info",
            "Always 1; the labels name the loaded model",
            ["model", "version", "provider"],
            registry=self.registry,
        )
        self.latency_target = Gauge(
            f"{_PREFIX}_latency_target_seconds",
            "Latency target of a batch, as configured",
            registry=self.registry,
        )
        self.batch_limit = Gauge(
            f"{_PREFIX}_batch_limit",
            "Batch size that is currently expected to meet the latency target",
            ["model"],
            registry=self.registry,
        )
        self.over_target = Counter(
            f"{_PREFIX}_batches_over_target_total",
            "Batches that took longer than the target",
            registry=self.registry,
        )
        self.wait_seconds = Histogram(
            f"{_PREFIX}_wait_seconds",
            "Time that a request waits for its batch",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.reloads = Counter(
            f"{_PREFIX}_reloads_total",
            "Reloads of changed models, by outcome",
            ["model", "outcome"],
            registry=self.registry,
        )
