"""The conditions of an LLMService: types, reasons, and how they follow from what was seen. Pure.

`Ready` is true when all others are. Each is computed from scratch, never from what it was before;
only the time of its last change is carried over. The reasons
and what they mean are in `reasons.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from lengthwise_operator.autoscaling import Decision
from lengthwise_operator.children.engine import cache_claim
from lengthwise_operator.diagnosis import diagnose, pods_of
from lengthwise_operator.observed import Body, Observed
from lengthwise_operator.reasons import REASONS, ConditionType
from lengthwise_operator.service import CACHE, ENGINE, PREDICTOR, Installation, Service

Status = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition, without its time."""

    type: ConditionType
    status: Status
    reason: str
    message: str


def _condition(type_: ConditionType, reason: str, message: str) -> Condition:
    status: Any = REASONS[type_][reason][0]
    return Condition(type=type_, status=status, reason=reason, message=message)


def conditions(
    service: Service,
    observed: Observed,
    installation: Installation,
    scaling: Decision | None,
    broken: Sequence[str] = (),
) -> list[Condition]:
    """All of them, `Ready` first.

    Args:
        service: Of which.
        observed: What was seen.
        installation: What all services share.
        scaling: What the autoscaler decided; None: the number of replicas is fixed.
        broken: Messages of the rules that the spec breaks.
    """
    parts = [
        _engine(service, observed),
        _queue(service, observed, installation),
        _predictor(service, observed, installation),
        _scaling(service, scaling),
        _cache(service, observed),
    ]
    if broken and not service.deleted:
        return [invalid("; ".join(broken)), *parts]
    return [_ready(service, parts), *parts]


def invalid(message: str) -> Condition:
    """`Ready` when the spec is wrong: nothing is changed until it is mended."""
    return _condition(ConditionType.READY, "InvalidSpec", message)


def merged(
    new: Sequence[Condition], old: Sequence[Mapping[str, Any]], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """As they are written: with the time of the last change of status, carried over."""
    before = {condition.get("type"): condition for condition in old}
    out = []
    for condition in new:
        previous = before.get(condition.type, {})
        same = previous.get("status") == condition.status
        changed = previous.get("lastTransitionTime") if same else None
        out.append(
            {
                "type": str(condition.type),
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message[:4000],
                "observedGeneration": generation,
                "lastTransitionTime": changed or now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )
    return out


def _ready(service: Service, parts: Sequence[Condition]) -> Condition:
    if service.deleted:
        left = next(p for p in parts if p.type is ConditionType.QUEUE)
        return _condition(ConditionType.READY, "Deleting", left.message)
    for status in ("False", "Unknown"):
        for part in parts:
            if part.status == status:
                return Condition(
                    type=ConditionType.READY,
                    status=part.status,
                    reason=part.reason,
                    message=f"{part.type}: {part.message}",
                )
    engine = parts[0]
    reason = "ScaledToZero" if engine.reason == "ScaledToZero" else "Ready"
    return _condition(ConditionType.READY, reason, engine.message)


def _engine(service: Service, observed: Observed) -> Condition:
    def say(reason: str, message: str) -> Condition:
        return _condition(ConditionType.ENGINE, reason, message)

    refused = observed.refused.get(("Deployment", service.child(ENGINE)))
    if refused:
        return say("ManifestRefused", refused)
    deployment = observed.deployments.get(service.child(ENGINE))
    if deployment is None:
        return say("NotCreated", "the engine's Deployment does not exist yet")
    wanted = deployment.get("spec", {}).get("replicas", 1)
    if wanted == 0:
        return say("ScaledToZero", "no replica runs; the first job in line wakes one")
    status = deployment.get("status", {})
    ready, fresh = status.get("availableReplicas", 0), status.get("updatedReplicas", 0)
    fault = diagnose(pods_of(observed.pods, ENGINE), observed.events)
    if ready and observed.queue_rolling:
        return say(
            "RollingOut",
            f"{ready} of {wanted} answer; they are replaced when the queue service has been",
        )
    # Until its controller has seen a change, the numbers are those of before it.
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    if seen and ready >= wanted and fresh >= wanted and status.get("replicas", 0) == fresh:
        return say("Available", f"{ready} of {wanted} replicas answer")
    if ready:
        if fault:
            return say("Degraded", f"{ready} of {wanted} answer; {fault.reason}: {fault.message}")
        return say("RollingOut", f"{ready} of {wanted} answer, {fresh} are of this version")
    if fault:
        return say(fault.reason, fault.message)
    for condition in status.get("conditions", ()):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return say("PodsRefused", condition.get("message", "no pod could be made"))
    limit = service.spec.engine.startup_timeout_seconds
    return say("Starting", f"0 of {wanted} replicas answer yet; each has {limit} s to load")


def _queue(service: Service, observed: Observed, installation: Installation) -> Condition:
    def say(reason: str, message: str) -> Condition:
        return _condition(ConditionType.QUEUE, reason, message)

    name = service.queue
    if observed.rival:
        return say(
            "NameTaken",
            f"the model name {name!r} belongs to LLMService {observed.rival}; set another "
            "spec.model.name",
        )
    if observed.served is not None and observed.served != name:
        return say(
            "ModelNameChanged",
            f"spec.model.name cannot change from {observed.served!r} to {name!r}: jobs in line are "
            "under the old name. Change it back; or make a second LLMService and delete this one",
        )
    refused = observed.refused.get(("Queue", name))
    if refused:
        return say("SettingsRefused", refused)
    if observed.queue_problem:
        return say("QueueServiceUnreachable", observed.queue_problem)
    queue = observed.queue
    if queue is None:
        return say("NotCreated", f"the queue {name!r} does not exist yet")
    left = f"{queue.depth} waiting, {queue.in_flight} running"
    if queue.mode == "draining":
        return say("Draining", f"new jobs are refused; {left}")
    if queue.mode == "paused":
        resume = f"POST {installation.queue_url}/v1/queues/{name}/resume"
        return say("Paused", f"nothing is served until {resume}; {left}")
    # Without numbers: they change all the time, and each change would be a write to the cluster.
    return say("Accepting", f"jobs are taken, and served {queue.active_policy}")


def _predictor(service: Service, observed: Observed, installation: Installation) -> Condition:
    def say(reason: str, message: str) -> Condition:
        return _condition(ConditionType.PREDICTOR, reason, message)

    url = service.predictor_url(installation)
    if url is None:
        return say("Off", "no predictor; jobs are ordered by the median length of answers")
    own = service.own_predictor_replicas(installation) > 0
    if own and (refused := observed.refused.get(("Deployment", service.child(PREDICTOR)))):
        return say("Failing", refused)
    facts = observed.predictor
    if facts is not None and not facts.problem:
        if facts.refused:
            return say("ModelRefused", f"{facts.refused}; {facts.version} predicts meanwhile")
        if observed.queue is not None and observed.queue.fallback_active:
            measured = observed.queue.rank_accuracy
            share = "" if measured is None else f" ({measured:.2f})"
            return say(
                "RankAccuracyLow",
                f"the share of pairs in the right order{share} is below "
                f"{service.spec.predictor.min_rank_accuracy:g}; the queue serves fcfs meanwhile",
            )
        reason = "Available" if own else "External" if service.spec.predictor.url else "Shared"
        return say(reason, f"{facts.version or 'a predictor'} at {url}")
    if own:
        fault = diagnose(pods_of(observed.pods, PREDICTOR), observed.events)
        if fault:
            return say("Failing", f"{fault.reason}: {fault.message}")
        deployment = observed.deployments.get(service.child(PREDICTOR), {})
        if not deployment.get("status", {}).get("availableReplicas"):
            return say("Starting", "its first pod starts; jobs get the median length meanwhile")
    if facts is None:
        return say("NotAsked", f"{url} was not asked yet")
    return say("Unreachable", f"{facts.problem}; jobs get the median length meanwhile")


def _scaling(service: Service, scaling: Decision | None) -> Condition:
    if scaling is None:
        replicas = 1 if service.spec.replicas is None else service.spec.replicas
        return _condition(ConditionType.SCALING, "Fixed", f"{replicas} replicas, by spec.replicas")
    return _condition(ConditionType.SCALING, str(scaling.reason), scaling.message)


def _cache(service: Service, observed: Observed) -> Condition:
    def say(reason: str, message: str) -> Condition:
        return _condition(ConditionType.CACHE, reason, message)

    name = cache_claim(service)
    if name is None:
        return say("NotRequested", "no modelCache")
    refused = observed.refused.get(("PersistentVolumeClaim", service.child(CACHE)))
    if refused:
        return say("ManifestRefused", refused)
    claim = observed.claims.get(name)
    if claim is None:
        if name in observed.missing_claims:
            return say("ClaimNotFound", f"there is no PersistentVolumeClaim {name!r} here")
        return say("NotCreated", f"the claim {name!r} does not exist yet")
    return _of_claim(name, claim, observed)


def _of_claim(name: str, claim: Body, observed: Observed) -> Condition:
    phase = claim.get("status", {}).get("phase", "Pending")
    if phase == "Bound":
        return _condition(ConditionType.CACHE, "Bound", f"{name} is bound")
    if phase == "Lost":
        return _condition(ConditionType.CACHE, "Lost", f"{name} has lost its volume")
    if not pods_of(observed.pods, ENGINE):
        return _condition(
            ConditionType.CACHE, "WaitingForFirstPod", f"{name} gets its volume with the first pod"
        )
    return _condition(ConditionType.CACHE, "Pending", f"{name} has no volume yet")
