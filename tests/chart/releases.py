"""Values for the tests of the chart, and functions that find rendered objects."""

from __future__ import annotations

from typing import Any

import pytest

Object = dict[str, Any]


EVERYTHING: Object = {
    "image": {"registry": "registry.example.com", "pullSecrets": [{"name": "registry"}]},
    "commonLabels": {"team": "llm"},
    "commonAnnotations": {"owner": "us"},
    "queue": {
        "replicas": 3,
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "hosts": [{"host": "llm.example.com"}],
            "tls": [{"secretName": "tls", "hosts": ["llm.example.com"]}],
        },
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "high",
        "podAnnotations": {"a": "b"},
        "extraVolumes": [{"name": "ca", "configMap": {"name": "redis-ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/redis-ca"}],
    },
    "tenants": {"existingSecret": "tenants", "adminKeySecret": "admin"},
    "predictor": {
        "replicas": 2,
        "existingClaim": "predictor-model",
        "claimPath": "v2",
        "models": {"org/my-llm": "mine/"},
        "reloadEverySeconds": 0,
    },
    "redis": {"secretNamespaces": ["a", "b"]},
    "valkey": {"persistence": {"fixPermissions": True, "keepOnUninstall": True}},
    "networkPolicy": {
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}],
        "clientsFrom": [{"podSelector": {}}],
    },
    "monitoring": {
        "namespace": "monitoring",
        "serviceMonitor": {"enabled": True, "labels": {"release": "prom"}},
        "podMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True},
    },
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-x"}}
    ],
}


EXTERNAL: Object = {"valkey": {"enabled": False}, "redis": {"existingSecret": "my-redis"}}


SECURED: Object = {
    "valkey": {"enabled": False},
    "redis": {
        "existingSecret": "my-redis",
        "urlKey": "address",
        "username": "lengthwise",
        "passwordKey": "password",
        "sentinel": {"username": "watch", "passwordKey": "sentinel-password"},
        "tls": {
            **{"existingSecret": "my-certificates", "caKey": "ca.crt"},
            **{"certKey": "tls.crt", "keyKey": "tls.key", "verify": "ca"},
        },
        "durability": {"mode": "replica", "replicas": 2, "timeoutMs": 500},
    },
}


NAMESPACED: Object = {"operator": {"watchNamespaces": ["llm", "research"]}}


LEAST: Object = {
    "operator": {"enabled": False},
    "predictor": {"enabled": False},
    "queue": {"replicas": 1},
    "valkey": {"persistence": {"enabled": False}},
    "networkPolicy": {"enabled": False},
}


SETS = [{}, EVERYTHING, EXTERNAL, SECURED, NAMESPACED, LEAST]


NAMES = ["defaults", "everything", "external-redis", "secured-redis", "namespaced", "least"]


each_set = pytest.mark.parametrize("values", SETS, ids=NAMES)


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [o for o in objects if o["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object:
    return next(o for o in of_kind(objects, kind) if o["metadata"]["name"] == name)


def pods(objects: list[Object]) -> list[Object]:
    return [o["spec"]["template"] for o in of_kind(objects, "Deployment", "StatefulSet")]
