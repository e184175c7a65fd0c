"""The PodMonitor that makes Prometheus scrape the engine's pods. Pure."""

from __future__ import annotations

from lengthwise_operator.children.manifest import Manifest, metrics_ports
from lengthwise_operator.installation import Apis
from lengthwise_operator.llmservice.names import ENGINE
from lengthwise_operator.llmservice.service import LLMService


def pod_monitor(service: LLMService, apis: Apis) -> Manifest | None:
    """The PodMonitor, if the API server has this kind."""
    if not apis.pod_monitors:
        return None
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": service.child(ENGINE), "labels": service.labels(ENGINE)},
        "spec": {
            "selector": {"matchLabels": service.selector(ENGINE)},
            "podMetricsEndpoints": [
                {
                    "port": port,
                    "path": "/metrics",
                    "interval": "15s",
                    # The queue's name, as in the metrics of the queue service itself.
                    "relabelings": [{"targetLabel": "service", "replacement": service.queue}],
                }
                for port in metrics_ports(service)
            ],
        },
    }
