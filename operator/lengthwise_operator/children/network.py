"""The Service and the NetworkPolicy of an engine. Pure."""

from __future__ import annotations

from typing import Any

from lengthwise_operator.children.manifest import Manifest, service_port
from lengthwise_operator.installation import Installation
from lengthwise_operator.llmservice.names import ENGINE, ENGINE_PORT, WORKER_PORT
from lengthwise_operator.llmservice.service import LLMService


def engine_service(service: LLMService) -> Manifest:
    """The Service for scraping and port-forwarding. Requests come through the worker instead."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.child(ENGINE), "labels": service.labels(ENGINE)},
        "spec": {
            "clusterIP": "None",
            "selector": service.selector(ENGINE),
            "ports": [
                service_port("http", ENGINE_PORT),
                service_port("worker-metrics", WORKER_PORT),
            ],
        },
    }


def network_policy(service: LLMService, installation: Installation) -> Manifest:
    """Only the pods that scrape metrics reach the engine's pod; the worker is inside it."""
    ingress: list[dict[str, Any]] = []
    if installation.metrics_namespace:
        name = {"kubernetes.io/metadata.name": installation.metrics_namespace}
        ports = [{"protocol": "TCP", "port": port} for port in ("http", "worker-metrics")]
        ingress = [{"from": [{"namespaceSelector": {"matchLabels": name}}], "ports": ports}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": service.child(ENGINE), "labels": service.labels(ENGINE)},
        "spec": {
            "podSelector": {"matchLabels": service.selector(ENGINE)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }
