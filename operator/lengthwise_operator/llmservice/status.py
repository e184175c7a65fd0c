"""The status of an LLMService, as the operator writes it. Pure. `crd.py` puts it into the CRD."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lengthwise_operator.llmservice.fields import Part


class ConditionStatus(Part):
    """One condition, in the form that every Kubernetes condition has."""

    type: str = Field(
        max_length=316,
        description="What the condition is about; see docs/reference/operator.md.",
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(max_length=1024, description="Why, as one stable word.")
    message: str = Field(max_length=32768, description="Why, and what to do.")
    observed_generation: int | None = Field(
        default=None, description="metadata.generation that this was computed from."
    )
    last_transition_time: str = Field(
        json_schema_extra={"format": "date-time"}, description="When the status last changed."
    )


class QueueStatus(Part):
    """Recent numbers of the queue, for people. The metrics have the live numbers."""

    depth: int = Field(description="Jobs that wait.")
    in_flight: int = Field(description="Jobs that are being answered.")
    oldest_wait_seconds: float = Field(description="How long the oldest job has waited, s.")
    backlog_seconds: float | None = Field(
        default=None,
        description="Predicted time to serve the waiting jobs, s: with the present workers, or "
        "with one replica while there is none.",
    )
    active_policy: str = Field(
        default="",
        description="The policy in force; fcfs while the quality of the predictions is degraded.",
    )


class PredictorStatus(Part):
    """Recent facts about the predictor."""

    version: str = Field(default="", description="Version of the model that predicts.")
    rank_accuracy: float | None = Field(
        default=None,
        description="Share of pairs predicted in the right order. Left out: insufficient data.",
    )
    fallback_active: bool = Field(
        default=False, description="Whether the queue serves fcfs because that share is too low."
    )


class LLMServiceStatus(Part):
    """The observed state of the service."""

    observed_generation: int | None = Field(
        default=None, description="metadata.generation that this status was computed from."
    )
    replicas: int = Field(default=0, description="Engine pods that exist.")
    ready_replicas: int = Field(default=0, description="Engine pods that are ready.")
    desired_replicas: int | None = Field(
        default=None, description="Engine pods wanted, by spec.replicas or by the autoscaler."
    )
    selector: str = Field(
        default="", description="Label selector of the engine pods; the scale subresource uses it."
    )
    url: str = Field(default="", description="Base URL for OpenAI clients.")
    conditions: list[ConditionStatus] = Field(
        default_factory=list,
        json_schema_extra={"map_keys": ["type"]},
        description="Ready, and the conditions that it is computed from.",
    )
    queue: QueueStatus | None = Field(default=None, description="Recent numbers of the queue.")
    predictor: PredictorStatus | None = Field(
        default=None, description="Recent facts about the predictor."
    )
