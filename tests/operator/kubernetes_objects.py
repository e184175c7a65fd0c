"""Objects in the form in which the Kubernetes API shows them."""

from __future__ import annotations

from typing import Any


def pod(
    *,
    name: str = "chat-engine-1",
    part: str = "engine",
    phase: str = "Running",
    created: str = "2026-03-01T11:59:00Z",
    conditions: list[dict[str, Any]] | None = None,
    containers: list[dict[str, Any]] | None = None,
    init: list[dict[str, Any]] | None = None,
    **status: Any,
) -> dict[str, Any]:
    """A pod as the API shows it."""
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "creationTimestamp": created,
            "labels": {"app.kubernetes.io/component": part},
        },
        "status": {
            "phase": phase,
            "conditions": conditions or [],
            "containerStatuses": containers or [],
            "initContainerStatuses": init or [],
            **status,
        },
    }


def waiting(name: str, reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    """A container that waits."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"name": name, "ready": False, "restartCount": 0, "state": state, **more}


def crashed(name: str, log: str, *, code: int = 1, reason: str = "Error") -> dict[str, Any]:
    """A container in CrashLoopBackOff, with the end of its log."""
    ended = {"terminated": {"exitCode": code, "reason": reason, "message": log}}
    return waiting(name, "CrashLoopBackOff", lastState=ended, restartCount=2)


def deployment(
    *, wanted: int = 1, available: int = 0, fresh: int | None = None, total: int | None = None
) -> dict[str, Any]:
    """The engine's Deployment, as its controller reports it."""
    fresh = wanted if fresh is None else fresh
    status = {
        "replicas": fresh if total is None else total,
        "readyReplicas": available,
        "availableReplicas": available,
        "updatedReplicas": fresh,
    }
    return {"metadata": {"name": "chat-engine"}, "spec": {"replicas": wanted}, "status": status}


def engine(replicas: int = 1, available: int = 1) -> dict[str, Any]:
    return {
        "metadata": {"name": "chat-engine"},
        "spec": {"replicas": replicas},
        "status": {
            "replicas": replicas,
            "availableReplicas": available,
            "readyReplicas": available,
            "updatedReplicas": replicas,
        },
    }
