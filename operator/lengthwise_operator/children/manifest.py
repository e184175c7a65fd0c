"""Parts that the manifests of several children share. Pure."""

from __future__ import annotations

from typing import Any

from lengthwise_operator.llmservice.service import LLMService

Manifest = dict[str, Any]

#: Where the weights of a pvc:// model are mounted.
MODEL_MOUNT = "/mnt/model"

#: Security context of the project's own containers: Kubernetes' restricted profile, with a
#: read-only root file system.
RESTRICTED: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
}


def metrics_ports(service: LLMService) -> tuple[str, ...]:
    """Names of the ports of an engine's pod that serve metrics."""
    return ("worker-metrics",) if service.spec.engine.url else ("http", "worker-metrics")


def spread(selector: dict[str, str]) -> list[dict[str, Any]]:
    """Spread pods over nodes and zones, where that is possible."""
    return [
        {
            "topologyKey": key,
            "maxSkew": 1,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector},
        }
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]


def service_port(name: str, port: int) -> dict[str, Any]:
    """A port of a Service that leads to the container port of the same name."""
    return {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}
