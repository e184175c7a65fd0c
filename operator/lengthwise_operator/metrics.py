"""Metrics of the operator, served on `metrics_port`. Base units, bounded labels."""

from __future__ import annotations

import contextlib

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)

#: `service` is the queue's name, as in the metrics of the queue service and of the workers, so that
#: they can be joined; `llmservice` is the object's name.
_SERVICE = ("namespace", "service", "llmservice")


class OperatorMetrics:
    """The metrics of one process, in their own registry."""

    def __init__(self) -> None:
        """Create the metrics; `serve` publishes them."""
        self.registry = CollectorRegistry()
        r = self.registry
        self.reconcile_seconds = Histogram(
            "lengthwise_operator_reconcile_seconds",
            "Duration of one reconciliation of one service: observe, decide, apply",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
            registry=r,
        )
        self.reconciles = Counter(
            "lengthwise_operator_reconciles_total",
            "Reconciliations of services, by outcome: unchanged, changed, failed",
            ("outcome",),
            registry=r,
        )
        self.api_calls = Counter(
            "lengthwise_operator_api_calls_total",
            "Calls of the Kubernetes API except watches, by verb, kind and outcome",
            ("verb", "kind", "outcome"),
            registry=r,
        )
        self.repairs = Counter(
            "lengthwise_operator_repairs_total",
            "Children that were changed or deleted by another, and restored",
            ("kind",),
            registry=r,
        )
        self.ready = Gauge(
            "lengthwise_operator_service_ready",
            "1: the condition Ready is true",
            _SERVICE,
            registry=r,
        )
        self.desired = Gauge(
            "lengthwise_autoscaler_desired_replicas",
            "Desired engine replicas, by the autoscaler or spec.replicas",
            _SERVICE,
            registry=r,
        )
        self.backlog = Gauge(
            "lengthwise_autoscaler_backlog_seconds",
            "Predicted time that one replica needs for the waiting jobs",
            _SERVICE,
            registry=r,
        )
        self.decisions = Counter(
            "lengthwise_autoscaler_decisions_total",
            "Changes of the number of replicas, by reason",
            (*_SERVICE, "reason"),
            registry=r,
        )
        self.queue_polls = Counter(
            "lengthwise_operator_queue_polls_total",
            "Polls of the queue service, by outcome: ok, failed",
            ("outcome",),
            registry=r,
        )

    def forget(self, namespace: str, queue: str, llmservice: str) -> None:
        """Remove the series of a deleted service."""
        for gauge in (self.ready, self.desired, self.backlog):
            with contextlib.suppress(KeyError):  # it was never reconciled
                gauge.remove(namespace, queue, llmservice)

    def serve(self, port: int) -> None:
        """Serve /metrics on all addresses, in a thread, until the process ends."""
        ProcessCollector(registry=self.registry)
        start_http_server(port, registry=self.registry)
