"""The queue in front of the engine: `spec.queue`. Pure.

Where the queue service has the same setting, the default comes from the contract.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lengthwise_contract.queue_settings import PolicyName, QueueSettings
from lengthwise_operator.llmservice.fields import DURATION, Part, duration_of

_DEFAULTS = QueueSettings()


class QueueClassSpec(Part):
    """A service class of jobs: a fixed delay in the order of service."""

    name: str = Field(
        max_length=63,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        description="The name that a job gives as its `class`.",
    )
    offset: str = Field(
        default="0s",
        pattern=DURATION,
        max_length=32,
        description="Added to the due time of its jobs: they are ordered as if they had been "
        "accepted this much later.",
    )


class QueueSpec(Part):
    """The queue in front of the engine. Changes take effect at once, without a restart."""

    policy: PolicyName = Field(
        default=_DEFAULTS.policy,
        description="The order of service. sjf: short answers first, with credit for waiting. "
        "fcfs: first come, first served. shadow: predict and record, but serve first come, first "
        "served.",
    )
    overtake_factor: float = Field(
        default=_DEFAULTS.overtake_factor,
        ge=0,
        le=1000,
        description="k: no job is overtaken by one that was accepted more than k times its own "
        "predicted length later, except within overtakeWaitFactor. 0 is first come, first served; "
        "a larger k favours short answers more.",
    )
    overtake_wait_factor: float = Field(
        default=_DEFAULTS.overtake_wait_factor,
        ge=0,
        le=100,
        description="In a long queue, a long answer may be overtaken for up to this many times the "
        "wait that was expected when it was accepted, as far as the predictions have been right. "
        "0: overtakeFactor alone, which in a lasting overload is nearly first come, first served.",
    )
    max_depth: int = Field(
        default=_DEFAULTS.max_depth,
        ge=1,
        le=10_000_000,
        description="Number of waiting jobs above which new jobs are refused with status 429.",
    )
    no_workers: Literal["wait", "refuse"] = Field(
        default=_DEFAULTS.no_workers,
        description="What a new job meets while no replica serves the queue. wait: it waits for "
        "one. refuse: it is refused with status 503.",
    )
    max_in_flight_per_replica: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="Jobs that one replica holds at once. 0: engine.maxNumSeqs, which keeps the "
        "engine busy and its own, unordered queue empty.",
    )
    request_ttl: str = Field(
        default=duration_of(_DEFAULTS.request_ttl_ms),
        alias="requestTTL",
        pattern=DURATION,
        max_length=32,
        description="A job that is not finished after this time expires, unless the job sets "
        "another time.",
    )
    classes: list[QueueClassSpec] = Field(
        default_factory=lambda: [
            QueueClassSpec(name=each.name, offset=duration_of(round(each.offset_ms)))
            for each in _DEFAULTS.classes
        ],
        min_length=1,
        max_length=16,
        json_schema_extra={"map_keys": ["name"]},
        description="The service classes. The first is the default.",
    )
    record_rows: int = Field(
        default=_DEFAULTS.record_rows,
        ge=0,
        le=100_000,
        description="Keep this many of the latest pairs (request, length of the answer) in Redis "
        "for 7 days, to train a predictor on (`lengthwise collect --from-queue`). They contain "
        "your users' prompts. 0: none, and stored pairs are deleted. Workers apply a change within "
        "10 s.",
    )
