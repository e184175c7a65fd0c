"""Merge a user's pod template over the operator's, much as a strategic merge patch does. Pure.

Objects are merged field by field. Lists of named items (containers, volumes, variables, ...) are
merged by name. Tolerations and spread constraints are added. Every other list (command, args,
capabilities) is replaced as a whole. `{$patch: delete}` and null remove a field, `$patch: replace`
replaces an object instead of merging it. Plain `kubectl apply` drops nulls, hence the directive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: List field -> the field that identifies its items.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
}

#: List fields to which the user's items are added.
ADDED = frozenset({"tolerations", "topologySpreadConstraints", "envFrom"})


#: The directive of strategic merge patches, a key beside the fields that it is about.
PATCH = "$patch"


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `override` over `base`; neither is changed."""
    directive = override.get(PATCH)
    out = {} if directive == "replace" else dict(base)
    for name, value in override.items():
        if name == PATCH:
            continue
        if value is None or _deletes(value):
            out.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(out.get(name), Mapping):
            out[name] = merge(out[name], value)
        elif isinstance(value, list):
            out[name] = _merge_list(name, out.get(name) or [], value)
        elif isinstance(value, Mapping):
            out[name] = merge({}, value)  # the directives in it go
        else:
            out[name] = value
    return out


def _deletes(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get(PATCH) == "delete"


def _merge_list(name: str, base: list[Any], override: list[Any]) -> list[Any]:
    if name in ADDED:
        return [*base, *(item for item in override if item not in base)]
    key = MERGE_KEYS.get(name)
    if key is None or not all(isinstance(item, Mapping) and key in item for item in override):
        return override
    changes = {item[key]: item for item in override}
    merged = []
    for item in base:
        change = changes.pop(item.get(key), {})
        if not _deletes(change):
            merged.append(merge(item, change))
    return merged + [merge({}, item) for item in changes.values() if not _deletes(item)]


def merge_template(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a user's template over the operator's, which keeps the labels that select its pods."""
    allowed = {k: v for k, v in override.items() if k in ("metadata", "spec")}
    out = merge(base, allowed)
    out["metadata"] = {
        "labels": {**(out["metadata"].get("labels") or {}), **base["metadata"]["labels"]},
        "annotations": dict(out["metadata"].get("annotations") or {}),
    }
    for container in [*out["spec"]["containers"], *out["spec"].get("initContainers", [])]:
        for port in container.get("ports", []):
            # Server-side apply identifies a port by number and protocol. Kubernetes 1.20 refuses
            # one without a protocol.
            port.setdefault("protocol", "TCP")
    return out
