"""Merges a user's pod template over ours, much as a strategic merge patch would. Pure.

Objects are merged field by field. Lists of things with a name are merged by that name: containers,
volumes, variables and so on; tolerations and spread constraints are added; every other list
(command, args, capabilities) is replaced as a whole. null takes a field away. Not supported:
`$patch` and `$retainKeys` directives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: List field -> the field that names its items.
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


def merge(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """`theirs` over `ours`; neither is changed."""
    out = dict(ours)
    for name, value in theirs.items():
        if value is None:
            out.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(out.get(name), Mapping):
            out[name] = merge(out[name], value)
        elif isinstance(value, list) and isinstance(out.get(name), list):
            out[name] = _merge_list(name, out[name], value)
        else:
            out[name] = value
    return out


def _merge_list(name: str, ours: list[Any], theirs: list[Any]) -> list[Any]:
    if name in ADDED:
        return [*ours, *(item for item in theirs if item not in ours)]
    key = MERGE_KEYS.get(name)
    if key is None or not all(isinstance(item, Mapping) and key in item for item in theirs):
        return theirs
    changes = {item[key]: item for item in theirs}
    merged = [merge(item, changes.pop(item[key], {})) for item in ours]
    return merged + list(changes.values())


def merge_template(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """A user's template over ours; the labels by which pods are found stay ours."""
    wanted = {k: v for k, v in theirs.items() if k in ("metadata", "spec")}
    out = merge(ours, wanted)
    out["metadata"] = {
        "labels": {**(out["metadata"].get("labels") or {}), **ours["metadata"]["labels"]},
        "annotations": dict(out["metadata"].get("annotations") or {}),
    }
    for container in [*out["spec"]["containers"], *out["spec"].get("initContainers", [])]:
        for port in container.get("ports", []):
            # Server-side apply names a port by number and protocol; without it, 1.20 refuses.
            port.setdefault("protocol", "TCP")
    return out
