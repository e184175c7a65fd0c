"""What the operator counts; served on `metrics_port`. Base units, bounded labels."""

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

#: `service` is the queue's name, as in the queue service's and the workers' metrics, so that they
#: can be put side by side; `llmservice` is the object's.
_SERVICE = ("namespace", "service", "llmservice")


class Metrics:
    """One process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        """Nothing is served before `serve`."""
        self.registry = CollectorRegistry()
        r = self.registry
        self.reconcile_seconds = Histogram(
            "lengthwise_operator_reconcile_seconds",
            "One look at one service: observe, decide, apply",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
            registry=r,
        )
        self.reconciles = Counter(
            "lengthwise_operator_reconciles_total",
            "Looks at services, by outcome: unchanged, changed, failed",
            ("outcome",),
            registry=r,
        )
        self.api_calls = Counter(
            "lengthwise_operator_api_calls_total",
            "Calls of the Kubernetes API by us, watches apart, by verb, kind and outcome",
            ("verb", "kind", "outcome"),
            registry=r,
        )
        self.repairs = Counter(
            "lengthwise_operator_repairs_total",
            "Children found changed or gone, and put right",
            ("kind",),
            registry=r,
        )
        self.ready = Gauge(
            "lengthwise_operator_service_ready",
            "1: the Ready condition is true",
            _SERVICE,
            registry=r,
        )
        self.desired = Gauge(
            "lengthwise_autoscaler_desired_replicas",
            "Engine replicas wanted, by the autoscaler or spec.replicas",
            _SERVICE,
            registry=r,
        )
        self.work = Gauge(
            "lengthwise_autoscaler_backlog_seconds",
            "What one replica would need for the waiting jobs, as predicted",
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
            "Looks at the queue service, by outcome: ok, failed",
            ("outcome",),
            registry=r,
        )

    def forget(self, namespace: str, queue: str, llmservice: str) -> None:
        """Take a deleted service's series away."""
        for gauge in (self.ready, self.desired, self.work):
            with contextlib.suppress(KeyError):  # it was never looked at
                gauge.remove(namespace, queue, llmservice)

    def serve(self, port: int) -> None:
        """Answer /metrics on all addresses, in a thread, until the process ends."""
        ProcessCollector(registry=self.registry)
        start_http_server(port, registry=self.registry)
