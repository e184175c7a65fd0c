"""The PodDisruptionBudget of the engine's pods. Pure."""

from __future__ import annotations

from typing import Any

from lengthwise_operator.children.manifest import Manifest
from lengthwise_operator.installation import Apis
from lengthwise_operator.llmservice.names import ENGINE
from lengthwise_operator.llmservice.service import LLMService


def disruption_budget(service: LLMService, apis: Apis) -> Manifest | None:
    """The budget, if there can be two replicas.

    With one replica a budget would only block the draining of its node.
    """
    wanted = service.spec
    most = wanted.autoscaling.max_replicas if wanted.autoscaling else wanted.replicas or 0
    if most < 2 or not apis.pdb_version:
        return None
    spec: dict[str, Any] = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": service.selector(ENGINE)},
    }
    if apis.pdb_unhealthy:
        # Otherwise an engine that never becomes ready blocks the draining of its node.
        spec["unhealthyPodEvictionPolicy"] = "AlwaysAllow"
    return {
        "apiVersion": apis.pdb_version,
        "kind": "PodDisruptionBudget",
        "metadata": {"name": service.child(ENGINE), "labels": service.labels(ENGINE)},
        "spec": spec,
    }
