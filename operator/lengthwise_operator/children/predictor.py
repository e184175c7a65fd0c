"""A predictor for one service alone: its Service and its Deployment. Pure."""

from __future__ import annotations

from typing import Any

from lengthwise_operator.children.manifest import (
    MODEL_MOUNT,
    RESTRICTED,
    Manifest,
    service_port,
    spread,
)
from lengthwise_operator.installation import Installation
from lengthwise_operator.llmservice.fields import seconds
from lengthwise_operator.llmservice.names import PREDICTOR, PREDICTOR_PORT
from lengthwise_operator.llmservice.service import LLMService


def predictor_service(service: LLMService, installation: Installation) -> Manifest | None:
    """The predictor's Service; None: this LLMService has no separate predictor."""
    if not service.own_predictor_replicas(installation):
        return None
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.child(PREDICTOR), "labels": service.labels(PREDICTOR)},
        "spec": {
            "selector": service.selector(PREDICTOR),
            "ports": [service_port("http", PREDICTOR_PORT)],
        },
    }


def predictor_deployment(service: LLMService, installation: Installation) -> Manifest | None:
    """The predictor's Deployment; None: this LLMService has no separate predictor."""
    replicas = service.own_predictor_replicas(installation)
    if not replicas:
        return None
    labels = service.labels(PREDICTOR)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": service.child(PREDICTOR), "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": service.selector(PREDICTOR)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "revisionHistoryLimit": 3,
            "template": {"metadata": {"labels": labels}, "spec": _pod(service, installation)},
        },
    }


def _pod(service: LLMService, installation: Installation) -> dict[str, Any]:
    container = _container(service, installation)
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}]
    if service.spec.predictor.model.startswith("pvc://"):
        claim, _, folder = service.spec.predictor.model.removeprefix("pvc://").partition("/")
        path = f"{MODEL_MOUNT}/{folder.strip('/')}".rstrip("/")
        container["env"].append({"name": "LENGTHWISE_PREDICTOR_MODEL_DIR", "value": path})
        container["volumeMounts"].append(
            {"name": "model", "mountPath": MODEL_MOUNT, "readOnly": True}
        )
        source = {"claimName": claim, "readOnly": True}
        volumes.append({"name": "model", "persistentVolumeClaim": source})
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "topologySpreadConstraints": spread(service.selector(PREDICTOR)),
        "enableServiceLinks": False,  # a Service's name must not become a variable of ours
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": volumes,
    }
    if installation.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in installation.image_pull_secrets]
    return pod


def _container(service: LLMService, installation: Installation) -> dict[str, Any]:
    reload_every_s = seconds(service.spec.predictor.reload_every)
    resources = service.spec.predictor.resources
    quantities = {
        name: {key: str(value) for key, value in of.items()}
        for name, of in (("limits", resources.limits), ("requests", resources.requests))
        if of
    }
    return {
        "name": "main",
        "image": installation.predictor_image,
        "imagePullPolicy": installation.image_pull_policy,
        "env": [
            {"name": "LENGTHWISE_PREDICTOR_HOST", "value": "0.0.0.0"},  # noqa: S104 - a pod's own
            {"name": "LENGTHWISE_PREDICTOR_PORT", "value": str(PREDICTOR_PORT)},
            {"name": "LENGTHWISE_PREDICTOR_RELOAD_EVERY_S", "value": f"{reload_every_s:g}"},
        ],
        "ports": [{"name": "http", "containerPort": PREDICTOR_PORT, "protocol": "TCP"}],
        "resources": quantities or {"requests": {"cpu": "100m", "memory": "256Mi"}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - the container's own
        "securityContext": RESTRICTED,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 5},
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "http"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
    }
