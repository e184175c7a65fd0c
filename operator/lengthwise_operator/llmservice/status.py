"""What the operator writes back: the status of an LLMService. See `spec.py`; `crd.py` uses both."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lengthwise_operator.llmservice.spec import Part


class ConditionView(Part):
    """One fact about the service, as every Kubernetes condition."""

    type: str = Field(
        max_length=316, description="What it is about; see docs/reference/operator.md."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(max_length=1024, description="Why, in one word that does not change.")
    message: str = Field(max_length=32768, description="Why, and what to do.")
    observed_generation: int | None = Field(
        default=None, description="metadata.generation that this was computed from."
    )
    last_transition_time: str = Field(
        json_schema_extra={"format": "date-time"}, description="When the status last changed."
    )


class QueueStatus(Part):
    """The line, as it was lately: for people. Live numbers are in the metrics."""

    depth: int = Field(description="Jobs waiting.")
    in_flight: int = Field(description="Jobs being answered.")
    oldest_wait_seconds: float = Field(description="How long the oldest has waited, s.")
    backlog_seconds: float | None = Field(
        default=None,
        description="Predicted time to serve what waits with one replica, s.",
    )
    active_policy: str = Field(
        default="", description="What is really served; fcfs while the predictor is not trusted."
    )


class PredictorStatus(Part):
    """The predictor, as it was lately."""

    version: str = Field(default="", description="Which model predicts.")
    rank_accuracy: float | None = Field(
        default=None, description="Share of pairs in the right order; left out: not enough jobs."
    )
    fallback_active: bool = Field(
        default=False, description="Whether the queue serves fcfs because that share is too low."
    )


class LLMServiceStatus(Part):
    """What is."""

    observed_generation: int | None = Field(
        default=None, description="metadata.generation that this status was computed from."
    )
    replicas: int = Field(default=0, description="Engine pods that there are.")
    ready_replicas: int = Field(default=0, description="Engine pods that answer.")
    desired_replicas: int | None = Field(
        default=None, description="Engine pods wanted: spec.replicas, or the autoscaler's."
    )
    selector: str = Field(
        default="", description="Label selector of the engine pods; the scale subresource uses it."
    )
    url: str = Field(default="", description="Base URL for OpenAI clients.")
    conditions: list[ConditionView] = Field(
        default_factory=list,
        json_schema_extra={"map_keys": ["type"]},
        description="Ready, and what it is made of.",
    )
    queue: QueueStatus | None = Field(default=None, description="The line, as it was lately.")
    predictor: PredictorStatus | None = Field(
        default=None, description="The predictor, as it was lately."
    )
