"""The Service of an engine, and the NetworkPolicies of engine and predictor. Pure."""

from __future__ import annotations

from typing import Any

from lengthwise_operator.children.manifest import Manifest, metrics_ports, service_port
from lengthwise_operator.installation import Installation
from lengthwise_operator.llmservice.names import ENGINE, ENGINE_PORT, PREDICTOR, WORKER_PORT
from lengthwise_operator.llmservice.service import LLMService

#: Every address but the link-local ones, where clouds have their metadata service.
_NO_LINK_LOCAL: list[dict[str, Any]] = [
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10", "fd00:ec2::254/128"]}},
]

#: A label of all pods of the installation.
_PART_OF = {"app.kubernetes.io/part-of": "lengthwise"}


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
                *([] if service.spec.engine.url else [service_port("http", ENGINE_PORT)]),
                service_port("worker-metrics", WORKER_PORT),
            ],
        },
    }


def network_policy(service: LLMService, installation: Installation) -> Manifest:
    """Only the pods that scrape metrics reach the engine's pod; the worker is inside it.

    The pod reaches everything but link-local addresses: Redis, a model hub, `engine.url`.
    """
    ingress: list[dict[str, Any]] = []
    if installation.metrics_namespace:
        ports = [{"protocol": "TCP", "port": port} for port in metrics_ports(service)]
        ingress = [{"from": [_in_namespace(installation.metrics_namespace)], "ports": ports}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": service.child(ENGINE), "labels": service.labels(ENGINE)},
        "spec": {
            "podSelector": {"matchLabels": service.selector(ENGINE)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": [{"to": _NO_LINK_LOCAL}],
        },
    }


def predictor_policy(service: LLMService, installation: Installation) -> Manifest | None:
    """Only the installation's own pods reach the predictor of this service, which calls no one.

    None: there is no such predictor, or the installation's namespace is not known.
    """
    namespace = installation.queue_deployment.partition("/")[0]
    if not namespace or not service.own_predictor_replicas(installation):
        return None
    peers = [_in_namespace(namespace) | {"podSelector": {"matchLabels": _PART_OF}}]
    if installation.metrics_namespace:
        peers.append(_in_namespace(installation.metrics_namespace))
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": service.child(PREDICTOR), "labels": service.labels(PREDICTOR)},
        "spec": {
            "podSelector": {"matchLabels": service.selector(PREDICTOR)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": peers, "ports": [{"protocol": "TCP", "port": "http"}]}],
            "egress": [],
        },
    }


def _in_namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
