"""Parts of the spec that have the form of the same parts of a Pod. Pure."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lengthwise_operator.llmservice.fields import DNS_NAME, Opaque, Part, Quantities


class SecretKeyRef(Part):
    """One key of a Secret in the namespace of the LLMService."""

    name: str = Field(pattern=DNS_NAME, max_length=253, description="Name of the Secret.")
    key: str = Field(default="token", min_length=1, max_length=253, description="Key within it.")


class EnvVar(Part):
    """One environment variable of the engine's container."""

    name: str = Field(min_length=1, max_length=253, description="Name of the variable.")
    value: str | None = Field(
        default=None, description="Value of the variable. Set either value or valueFrom."
    )
    value_from: Opaque | None = Field(
        default=None, description="Source of the value, as in a Pod (secretKeyRef, ...)."
    )


class Resources(Part):
    """Requests and limits of a container."""

    limits: Quantities = Field(
        default_factory=dict,
        description="Limits of the container, e.g. {nvidia.com/gpu: 1, memory: 32Gi}.",
    )
    requests: Quantities = Field(
        default_factory=dict,
        description="Resources reserved for the container. Left out: the limits.",
    )


class PodMetadata(Part):
    """Labels and annotations to add to the pods."""

    labels: dict[str, str] | None = Field(
        default=None,
        description="Labels to add. Those by which the operator selects its pods cannot be "
        "changed.",
    )
    annotations: dict[str, str] | None = Field(default=None, description="Annotations to add.")


class PodTemplate(Part):
    """A user's changes of the engine's pods; `pod_check.py` checks what is in `spec`."""

    metadata: PodMetadata | None = Field(default=None, description="Labels and annotations.")
    spec: Opaque | None = Field(default=None, description="Fields of a Pod's spec.")

    def as_dict(self) -> dict[str, Any]:
        """Return the template as it was written."""
        metadata = self.metadata.model_dump(exclude_none=True) if self.metadata else {}
        return {"metadata": metadata, "spec": self.spec or {}}


class Toleration(Part):
    """A taint that the pods tolerate."""

    key: str | None = Field(default=None, description="The taint's key. Left out: every key.")
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None, description="Equal (the default) or Exists."
    )
    value: str | None = Field(default=None, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="The taint's effect. Left out: every effect."
    )
    toleration_seconds: int | None = Field(
        default=None, description="With NoExecute: how long the taint is tolerated, s."
    )
