"""The status and the events that a reconciliation reports. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lengthwise_operator.autoscaling import ScalingDecision
from lengthwise_operator.conditions import Condition, merged
from lengthwise_operator.installation import Installation
from lengthwise_operator.llmservice.names import ENGINE
from lengthwise_operator.llmservice.service import LLMService
from lengthwise_operator.observed import Observed
from lengthwise_operator.reasons import EXPECTED, ConditionType

#: Changed numbers in the status are written at most this often, s. Each write goes to etcd and to
#: every watcher, and the metrics have the live numbers.
STATUS_EVERY_S = 10.0

#: Reasons of `Ready` that become an event; its other reasons are those of another condition.
_READY_EVENTS = frozenset({"Ready", "InvalidSpec", "Deleting"})


@dataclass(frozen=True, kw_only=True)
class ServiceEvent:
    """A Kubernetes event on the LLMService."""

    type: str
    reason: str
    message: str


def status_of(
    service: LLMService,
    observed: Observed,
    installation: Installation,
    conditions: Sequence[Condition],
    replicas: int,
    now: datetime,
) -> dict[str, Any]:
    """Build the status.

    Args:
        service: The desired state.
        observed: What was observed.
        installation: What all services share.
        conditions: All conditions.
        replicas: Desired number of engine replicas.
        now: Wall clock, for the times of conditions.
    """
    deployment = observed.deployments.get(service.child(ENGINE), {})
    engine = deployment.get("status", {})
    selector = ",".join(f"{k}={v}" for k, v in sorted(service.selector(ENGINE).items()))
    earlier = service.status.get("conditions", ())
    status: dict[str, Any] = {
        "observedGeneration": service.generation,
        "replicas": engine.get("replicas", 0),
        "readyReplicas": engine.get("readyReplicas", 0),
        "desiredReplicas": replicas,
        "selector": selector,
        "url": installation.public_url,
        "conditions": merged(conditions, earlier, service.generation, now),
    }
    queue = observed.queue
    if queue is not None and not observed.name_owner:
        one_replica_s = queue.backlog_tokens * queue.ms_per_token / 1000 / service.slots
        backlog_s = one_replica_s if queue.backlog_s is None else queue.backlog_s
        status["queue"] = {
            "depth": queue.depth,
            "inFlight": queue.in_flight,
            "oldestWaitSeconds": round(queue.oldest_wait_s),
            "backlogSeconds": round(backlog_s, 1),
            "activePolicy": queue.active_policy,
        }
    if observed.predictor is not None:
        status["predictor"] = {"fallbackActive": queue.fallback_active if queue else False}
        if observed.predictor.version:
            status["predictor"]["version"] = observed.predictor.version
        if queue is not None and queue.rank_accuracy is not None:
            status["predictor"]["rankAccuracy"] = round(queue.rank_accuracy, 3)
    return status


def worth_writing(old: Mapping[str, Any], new: Mapping[str, Any], since_s: float) -> bool:
    """Whether to write the new status: at once, or only if the last write was long enough ago.

    Args:
        old: The status of the object.
        new: The status to write.
        since_s: Time since the last write, s.
    """
    if old == new:
        return False
    return _without_numbers(old) != _without_numbers(new) or since_s >= STATUS_EVERY_S


def events_of(
    service: LLMService, conditions: Sequence[Condition], scaling: ScalingDecision | None
) -> list[ServiceEvent]:
    """Build an event for each condition whose reason changed, and for a change of replicas."""
    before = {c["type"]: c for c in service.status.get("conditions", ())}
    out = []
    for condition in conditions:
        last = before.get(condition.type, {})
        if last.get("reason") == condition.reason and last.get("status") == condition.status:
            continue
        # The autoscaler's decision becomes an event below. A condition that is true from the start
        # needs none.
        if condition.type is ConditionType.SCALING or condition.reason == "NotCreated":
            continue
        if not last and condition.status == "True" and condition.type is not ConditionType.READY:
            continue
        if condition.type is ConditionType.READY and condition.reason not in _READY_EVENTS:
            continue
        normal = condition.status != "False" or condition.reason in EXPECTED
        out.append(
            ServiceEvent(
                type="Normal" if normal else "Warning",
                reason=condition.reason,
                message=f"{condition.type}: {condition.message}",
            )
        )
    last_desired = service.status.get("desiredReplicas")
    if scaling is not None and last_desired is not None and scaling.replicas != last_desired:
        out.append(ServiceEvent(type="Normal", reason=str(scaling.reason), message=scaling.message))
    return out


def _without_numbers(status: Mapping[str, Any]) -> Any:
    """Remove what changes all the time: the queue's numbers, and the messages of conditions."""
    rest = {k: v for k, v in status.items() if k not in ("queue", "conditions")}
    conditions = [
        (c["type"], c["status"], c["reason"], c.get("observedGeneration"))
        for c in status.get("conditions", ())
    ]
    return rest, conditions
