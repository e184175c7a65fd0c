"""The spec of an LLMService as one typed model: the source of the CRD, and what the operator reads.

`crd.py` writes these models as a structural schema, so a field's description here is what
`kubectl explain` prints. The models state what a schema can check in one field. Rules about two
fields at once are in `rules.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from lengthwise_operator.llmservice.engine_spec import EngineSpec, Parallelism
from lengthwise_operator.llmservice.fields import QUANTITY, Opaque, Part
from lengthwise_operator.llmservice.model_spec import ModelCache, ModelSpec
from lengthwise_operator.llmservice.pod_spec import (
    PodTemplate,
    Resources,
    SecretKeyRef,
    Toleration,
)
from lengthwise_operator.llmservice.predictor_spec import PredictorSpec
from lengthwise_operator.llmservice.queue_spec import QueueSpec
from lengthwise_operator.llmservice.replicas_spec import Autoscaling, Drain, RolloutStrategy


class LLMServiceSpec(Part):
    """The desired state of the service."""

    model: ModelSpec = Field(description="Which LLM is served, and where its weights are.")
    hf_token_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="A token for models that the hub restricts. It is passed to the engine as "
        "HF_TOKEN, and no other program reads it.",
    )
    engine: EngineSpec = Field(default_factory=EngineSpec, description="How vLLM is started.")
    resources: Resources = Field(
        default_factory=Resources,
        description="Resources of the engine's container in each replica.",
    )
    parallelism: Parallelism = Field(
        default_factory=Parallelism, description="How one replica is spread over GPUs."
    )
    shared_memory_size: str | None = Field(
        default=None,
        pattern=QUANTITY,
        description="Size of /dev/shm, which counts as memory of the pod. Left out: 2Gi, or 8Gi "
        "with tensor parallelism. 0: the default of the container runtime (64Mi).",
    )
    node_selector: dict[str, str] = Field(
        default_factory=dict, description="Labels of the nodes that the engine may run on."
    )
    tolerations: list[Toleration] = Field(
        default_factory=list, max_length=64, description="Taints that the engine's pods tolerate."
    )
    affinity: Opaque = Field(
        default_factory=dict, description="Affinity of the engine's pods, as in a Pod."
    )
    runtime_class_name: str = Field(
        default="", description="RuntimeClass of the engine's pods, e.g. nvidia. Empty: default."
    )
    priority_class_name: str = Field(
        default="", description="PriorityClass of the engine's pods. Empty: default."
    )
    model_cache: ModelCache | None = Field(
        default=None,
        description="Keeps weights from the hub across restarts. Left out: each pod downloads "
        "them again.",
    )
    replicas: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Engine replicas; `kubectl scale` sets this field. Left out: 1. Cannot be "
        "combined with autoscaling.",
    )
    autoscaling: Autoscaling | None = Field(
        default=None,
        description="Replicas that follow the predicted backlog. Cannot be combined with replicas.",
    )
    queue: QueueSpec = Field(
        default_factory=QueueSpec, description="The queue in front of the engine."
    )
    predictor: PredictorSpec = Field(
        default_factory=PredictorSpec, description="What predicts the length of answers."
    )
    rollout_strategy: RolloutStrategy = Field(
        default_factory=RolloutStrategy, description="How a change replaces the replicas."
    )
    drain: Drain = Field(
        default_factory=Drain,
        description="How a replica, or the service, ends without losing work.",
    )
    pod_template: PodTemplate = Field(
        default_factory=PodTemplate,
        description="Escape hatch: a pod template (metadata.labels, metadata.annotations, spec) "
        "merged over the engine's. Containers are merged by name; the engine's is `main`. "
        "docs/reference/llmservice.md describes how each field is merged.",
    )


def unreadable_spec(raw: Any) -> LLMServiceSpec:
    """Return what the deletion of a service needs whose spec cannot be read: its time limits."""
    spec: dict[str, Any] = {"model": {"uri": "hf://unreadable/spec"}}
    drain = raw.get("drain") if isinstance(raw, Mapping) else None
    try:
        return LLMServiceSpec.model_validate({**spec, "drain": drain or {}})
    except ValidationError:
        return LLMServiceSpec.model_validate(spec)
