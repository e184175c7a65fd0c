"""All children of an LLMService, as manifests ready for server-side apply. Pure."""

from __future__ import annotations

from typing import Any

from lengthwise_operator.children.engine import (
    MODEL_MOUNT,
    RESTRICTED,
    engine_deployment,
)
from lengthwise_operator.llmservice.spec import seconds
from lengthwise_operator.service import (
    API_VERSION,
    CACHE,
    ENGINE,
    ENGINE_PORT,
    KIND,
    PREDICTOR,
    PREDICTOR_PORT,
    QUEUE_ANNOTATION,
    WORKER_PORT,
    Apis,
    Installation,
    Service,
)

Manifest = dict[str, Any]


def children(
    service: Service, installation: Installation, apis: Apis, replicas: int
) -> list[Manifest]:
    """What there is to be, in the order in which it is applied.

    Args:
        service: Whose children.
        installation: What all services share.
        apis: What the API server offers.
        replicas: Engine replicas wanted now.
    """
    found: list[Manifest | None] = [
        _cache_claim(service),
        _engine_service(service),
        _network_policy(service, installation),
        _disruption_budget(service, apis),
        _pod_monitor(service, apis),
        *_predictor(service, installation),
        engine_deployment(service, installation, replicas),
    ]
    return [_owned(manifest, service) for manifest in found if manifest is not None]


def _owned(manifest: Manifest, service: Service) -> Manifest:
    manifest["metadata"] |= {
        "namespace": service.namespace,
        "annotations": {QUEUE_ANNOTATION: service.queue},
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": service.name,
                "uid": service.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    return manifest


def _cache_claim(service: Service) -> Manifest | None:
    cache = service.spec.model_cache
    if cache is None or cache.existing_claim:
        return None
    spec: dict[str, Any] = {
        "accessModes": list(cache.access_modes),
        "resources": {"requests": {"storage": cache.size}},
    }
    if cache.storage_class_name:
        spec["storageClassName"] = cache.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": service.child(CACHE), "labels": service.labels(CACHE)},
        "spec": spec,
    }


def _port(name: str, port: int) -> dict[str, Any]:
    return {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}


def _engine_service(service: Service) -> Manifest:
    """For scraping and port-forwarding; requests come through the worker, never through this."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.child(ENGINE), "labels": service.labels(ENGINE)},
        "spec": {
            "clusterIP": "None",
            "selector": service.selector(ENGINE),
            "ports": [_port("http", ENGINE_PORT), _port("worker-metrics", WORKER_PORT)],
        },
    }


def _network_policy(service: Service, installation: Installation) -> Manifest:
    """Nobody reaches the engine but the worker, which is in its pod, and who may scrape it."""
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


def _disruption_budget(service: Service, apis: Apis) -> Manifest | None:
    """With one replica a budget would only block the draining of its node."""
    spec = service.spec
    most = spec.autoscaling.max_replicas if spec.autoscaling else spec.replicas or 0
    if most < 2 or not apis.pdb_version:
        return None
    return {
        "apiVersion": apis.pdb_version,
        "kind": "PodDisruptionBudget",
        "metadata": {"name": service.child(ENGINE), "labels": service.labels(ENGINE)},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": service.selector(ENGINE)}},
    }


def _pod_monitor(service: Service, apis: Apis) -> Manifest | None:
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
                for port in ("http", "worker-metrics")
            ],
        },
    }


def _predictor(service: Service, installation: Installation) -> list[Manifest]:
    replicas = service.own_predictor_replicas(installation)
    if not replicas:
        return []
    labels, selector = service.labels(PREDICTOR), service.selector(PREDICTOR)
    container: dict[str, Any] = {
        "name": "main",
        "image": installation.predictor_image,
        "imagePullPolicy": installation.image_pull_policy,
        "env": [
            {"name": "LENGTHWISE_PREDICTOR_HOST", "value": "0.0.0.0"},  # noqa: S104 - a pod's own
            {"name": "LENGTHWISE_PREDICTOR_PORT", "value": str(PREDICTOR_PORT)},
            {
                "name": "LENGTHWISE_PREDICTOR_RELOAD_EVERY_S",
                "value": f"{seconds(service.spec.predictor.reload_every):g}",
            },
        ],
        "ports": [{"name": "http", "containerPort": PREDICTOR_PORT, "protocol": "TCP"}],
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
    resources = service.spec.predictor.resources
    container["resources"] = {
        name: {key: str(value) for key, value in quantities.items()}
        for name, quantities in (("limits", resources.limits), ("requests", resources.requests))
        if quantities
    } or {"requests": {"cpu": "100m", "memory": "256Mi"}}
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
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": volumes,
    }
    if installation.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in installation.image_pull_secrets]
    name = service.child(PREDICTOR)
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "labels": labels},
            "spec": {"selector": selector, "ports": [_port("http", PREDICTOR_PORT)]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": selector},
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
                },
                "revisionHistoryLimit": 3,
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
    ]
