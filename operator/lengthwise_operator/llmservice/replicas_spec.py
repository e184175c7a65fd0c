"""The number of replicas, their autoscaling, replacement and end. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lengthwise_operator.llmservice.fields import Part

#: Bounded, because the API server refuses CEL rules over strings that have no bound.
_INT_OR_PERCENT: dict[str, Any] = {"pattern": "^[0-9]{1,3}%?$", "maxLength": 4}


class Autoscaling(Part):
    """Replicas that follow the predicted backlog, instead of a fixed number."""

    min_replicas: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Fewest replicas. 0: none while there is no work; the first job starts one, "
        "and waits in the queue while the model loads.",
    )
    max_replicas: int = Field(default=4, ge=1, le=1000, description="Most replicas.")
    target_backlog_seconds: float = Field(
        default=30,
        ge=1,
        le=86400,
        description="Replicas are added until the backlog would be served within this time, s. "
        "The backlog is the predicted length of the waiting jobs, at the measured speed.",
    )
    scale_down_delay_seconds: int = Field(
        default=300,
        ge=0,
        le=86400,
        description="A replica is removed only when it was not needed for this long, s.",
    )


class RolloutStrategy(Part):
    """How a change of image or arguments replaces the replicas."""

    max_unavailable: int | str = Field(
        default=0,
        json_schema_extra=_INT_OR_PERCENT,
        description="Replicas that may be missing during the rollout, a number or a percentage.",
    )
    max_surge: int | str = Field(
        default=1,
        json_schema_extra=_INT_OR_PERCENT,
        description="Replicas beyond the desired number; each needs its GPUs. With no GPU to "
        "spare, set this to 0 and maxUnavailable to 1.",
    )


class Drain(Part):
    """How a replica, or the whole service, ends without losing work."""

    pre_stop_seconds: int = Field(
        default=15,
        ge=0,
        le=3600,
        description="How long the engine waits for the worker beside it to finish its answers "
        "before it gets the signal to stop, s. The wait ends early when the worker has none left.",
    )
    shutdown_timeout_seconds: int = Field(
        default=45,
        ge=0,
        le=3600,
        description="How long the engine may continue its answers after that (vLLM's "
        "--shutdown-timeout), s. Jobs that are not finished by then return to the queue.",
    )
    delete_timeout_seconds: int = Field(
        default=600,
        ge=0,
        le=86400,
        description="When this object is deleted, how long its queued jobs may still be served "
        "before everything is removed, s. New jobs are refused at once. 0: remove at once.",
    )
