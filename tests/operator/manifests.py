"""Finds parts of the manifests that the operator creates."""

from __future__ import annotations

from typing import Any

from lengthwise_operator.children.manifest import Manifest
from lengthwise_operator.planner import ServicePlan


def by_kind(found: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    return {(m["kind"], m["metadata"]["name"]): m for m in found}


def pod(found: Any) -> Any:
    return found["Deployment", "chat-engine"]["spec"]["template"]["spec"]


def container(found: Any, name: str) -> Any:
    return next(c for c in pod(found)["containers"] if c["name"] == name)


def env(of: Any) -> dict[str, Any]:
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in of["env"]}


def flag(args: list[str], name: str) -> str | None:
    return args[args.index(name) + 1] if name in args else None


def engine_replicas(found: ServicePlan) -> int:
    (deployment,) = (
        m for m in found.apply if m["kind"] == "Deployment" and "engine" in m["metadata"]["name"]
    )
    return int(deployment["spec"]["replicas"])
