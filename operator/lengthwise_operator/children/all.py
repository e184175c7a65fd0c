"""All children of an LLMService, as manifests ready for server-side apply. Pure."""

from __future__ import annotations

from lengthwise_operator.children.disruption_budget import disruption_budget
from lengthwise_operator.children.engine import engine_deployment
from lengthwise_operator.children.manifest import Manifest
from lengthwise_operator.children.model_cache import managed_cache_claim
from lengthwise_operator.children.monitoring import pod_monitor
from lengthwise_operator.children.network import engine_service, network_policy, predictor_policy
from lengthwise_operator.children.predictor import predictor_deployment, predictor_service
from lengthwise_operator.installation import Apis, Installation
from lengthwise_operator.llmservice.names import API_VERSION, KIND, QUEUE_ANNOTATION
from lengthwise_operator.llmservice.service import LLMService


def all_children(
    service: LLMService, installation: Installation, apis: Apis, replicas: int
) -> list[Manifest]:
    """Build every child of one service, in the order in which they are applied.

    Args:
        service: The owner.
        installation: What all services share.
        apis: Which optional APIs the API server offers.
        replicas: Desired number of engine replicas.
    """
    optional: list[Manifest | None] = [
        managed_cache_claim(service),
        engine_service(service),
        network_policy(service, installation),
        disruption_budget(service, apis),
        pod_monitor(service, apis),
        predictor_policy(service, installation),
        predictor_service(service, installation),
        predictor_deployment(service, installation),
        engine_deployment(service, installation, replicas),
    ]
    return [_owned(manifest, service) for manifest in optional if manifest is not None]


def _owned(manifest: Manifest, service: LLMService) -> Manifest:
    manifest["metadata"] |= {
        "namespace": service.namespace,
        "annotations": manifest["metadata"].get("annotations", {})
        | {QUEUE_ANNOTATION: service.queue},
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
