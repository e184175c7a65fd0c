"""The PersistentVolumeClaim that keeps downloaded weights. Pure."""

from __future__ import annotations

from typing import Any

from lengthwise_operator.children.manifest import Manifest
from lengthwise_operator.llmservice.names import CACHE
from lengthwise_operator.llmservice.service import LLMService


def cache_claim(service: LLMService) -> str | None:
    """Name of the claim that stores downloads; None: each pod has its own folder."""
    cache = service.spec.model_cache
    return None if cache is None else cache.existing_claim or service.child(CACHE)


def managed_cache_claim(service: LLMService) -> Manifest | None:
    """The claim that the operator creates; None: there is no cache, or the user has a claim."""
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
