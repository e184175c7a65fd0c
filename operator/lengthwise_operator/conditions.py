"""Compute the conditions of an LLMService from what was observed. Pure.

`Ready` is true when all others are. Each condition is computed anew, never from its earlier value;
only the time of its last change is carried over. `reasons.py` has the reasons and their meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from lengthwise_operator.autoscaling import ScalingDecision
from lengthwise_operator.children.model_cache import cache_claim
from lengthwise_operator.diagnosis import diagnose, pods_of
from lengthwise_operator.installation import Installation
from lengthwise_operator.llmservice.names import CACHE, ENGINE, PREDICTOR
from lengthwise_operator.llmservice.service import LLMService
from lengthwise_operator.observed import Body, Observed
from lengthwise_operator.reasons import REASONS, ConditionType

Status = Literal["True", "False", "Unknown"]

#: What the queue does without predictions.
_MEDIAN_LENGTH = "every job is assumed to have the median length"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition, without the time of its last change."""

    type: ConditionType
    status: Status
    reason: str
    message: str


def _condition(type_: ConditionType, reason: str, message: str) -> Condition:
    status: Any = REASONS[type_][reason][0]
    return Condition(type=type_, status=status, reason=reason, message=message)


def conditions(
    service: LLMService,
    observed: Observed,
    installation: Installation,
    scaling: ScalingDecision | None,
    broken: Sequence[str] = (),
) -> list[Condition]:
    """Compute all conditions, `Ready` first.

    Args:
        service: The desired state.
        observed: What was observed.
        installation: What all services share.
        scaling: Decision of the autoscaler; None: the number of replicas is fixed.
        broken: Messages of the rules that the spec breaks.
    """
    others = [
        _engine(service, observed),
        _queue(service, observed, installation),
        _predictor(service, observed, installation),
        _scaling(service, scaling),
        _cache(service, observed),
    ]
    if broken and not service.deleted:
        return [invalid("; ".join(broken)), *others]
    return [_ready(service, others), *others]


def invalid(message: str) -> Condition:
    """Return `Ready` for an invalid spec: nothing is changed until it is fixed."""
    return _condition(ConditionType.READY, "InvalidSpec", message)


def merged(
    new: Sequence[Condition], old: Sequence[Mapping[str, Any]], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """Write the conditions for the status, with the time of the last change carried over."""
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


def _ready(service: LLMService, others: Sequence[Condition]) -> Condition:
    if service.deleted:
        queue = next(c for c in others if c.type is ConditionType.QUEUE)
        return _condition(ConditionType.READY, "Deleting", queue.message)
    for status in ("False", "Unknown"):
        for other in others:
            if other.status == status:
                return Condition(
                    type=ConditionType.READY,
                    status=other.status,
                    reason=other.reason,
                    message=f"{other.type}: {other.message}",
                )
    engine = others[0]
    reason = "ScaledToZero" if engine.reason == "ScaledToZero" else "Ready"
    return _condition(ConditionType.READY, reason, engine.message)


def _engine(service: LLMService, observed: Observed) -> Condition:
    def result(reason: str, message: str) -> Condition:
        return _condition(ConditionType.ENGINE, reason, message)

    foreign = observed.foreign_named(service.child(ENGINE))
    if foreign:
        return result("NameConflict", foreign)
    refused = observed.refusals_of(service.child(ENGINE))
    if refused:
        return result("ManifestRefused", refused)
    deployment = observed.deployments.get(service.child(ENGINE))
    if deployment is None:
        return result("NotCreated", "the engine's Deployment does not exist yet")
    wanted = deployment.get("spec", {}).get("replicas", 1)
    if wanted == 0:
        return result("ScaledToZero", "no replica runs; the first queued job starts one")
    status = deployment.get("status", {})
    ready, fresh = status.get("availableReplicas", 0), status.get("updatedReplicas", 0)
    fault = diagnose(pods_of(observed.pods, ENGINE), observed.events)
    if ready and observed.queue_rolling:
        return result(
            "RollingOut",
            f"{ready} of {wanted} replicas are ready; their rollout waits for the queue service's",
        )
    # Until its controller has observed a change, the numbers are from before that change.
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    if ready and observed.queue is not None and observed.queue.engine_problem:
        url = service.spec.engine.url
        where = f"{url}: " if url else ""
        return result("EngineFailing", where + observed.queue.engine_problem)
    if seen and ready >= wanted and fresh >= wanted and status.get("replicas", 0) == fresh:
        return result("Available", f"{ready} of {wanted} replicas are ready")
    if ready:
        if fault:
            return result(
                "Degraded",
                f"{ready} of {wanted} replicas are ready; {fault.reason}: {fault.message}",
            )
        return result(
            "RollingOut",
            f"{ready} of {wanted} replicas are ready, {fresh} have the current version",
        )
    if fault:
        return result(fault.reason, fault.message)
    for condition in status.get("conditions", ()):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return result("PodsRefused", condition.get("message", "no pod could be created"))
    limit = service.spec.engine.startup_timeout_seconds
    return result(
        "Starting", f"0 of {wanted} replicas are ready; each has {limit} s to load its model"
    )


def _queue(service: LLMService, observed: Observed, installation: Installation) -> Condition:
    def result(reason: str, message: str) -> Condition:
        return _condition(ConditionType.QUEUE, reason, message)

    name = service.queue
    if observed.name_owner:
        return result(
            "NameTaken",
            f"the model name {name!r} belongs to LLMService {observed.name_owner}; set another "
            "spec.model.name",
        )
    if observed.served_queue is not None and observed.served_queue != name:
        return result(
            "ModelNameChanged",
            f"spec.model.name cannot change from {observed.served_queue!r} to {name!r}: queued "
            "jobs are under the old name. Change it back, or create a second LLMService and "
            "delete this one",
        )
    refused = observed.refused.get(("Queue", name))
    if refused:
        return result("SettingsRefused", refused)
    if observed.queue_problem:
        return result("QueueServiceUnreachable", observed.queue_problem)
    queue = observed.queue
    if queue is None:
        return result("NotCreated", f"the queue {name!r} does not exist yet")
    left = f"{queue.depth} waiting, {queue.in_flight} running"
    if queue.mode == "draining":
        return result("Draining", f"new jobs are refused; {left}")
    if queue.mode == "paused":
        resume = f"POST {installation.queue_url}/v1/queues/{name}/resume"
        return result("Paused", f"no job is served until {resume}; {left}")
    # No numbers: they change all the time, and each change would be a write to the cluster.
    return result("Accepting", f"jobs are accepted; the policy in force is {queue.active_policy}")


def _predictor(service: LLMService, observed: Observed, installation: Installation) -> Condition:
    def result(reason: str, message: str) -> Condition:
        return _condition(ConditionType.PREDICTOR, reason, message)

    url = service.predictor_url(installation)
    if url is None:
        return result("Off", f"no predictor; {_MEDIAN_LENGTH}")
    own = service.own_predictor_replicas(installation) > 0
    if own and (foreign := observed.foreign_named(service.child(PREDICTOR))):
        return result("NameConflict", foreign)
    if own and (refused := observed.refusals_of(service.child(PREDICTOR))):
        return result("Failing", refused)
    facts = observed.predictor
    if facts is not None and not facts.problem:
        if facts.refused:
            return result("ModelRefused", f"{facts.refused}; {facts.version} predicts instead")
        if observed.queue is not None and observed.queue.fallback_active:
            measured = observed.queue.rank_accuracy
            share = "" if measured is None else f" ({measured:.2f})"
            return result(
                "RankAccuracyLow",
                f"the share of pairs predicted in the right order{share} is below "
                f"{service.spec.predictor.min_rank_accuracy:g}; the queue serves fcfs until it "
                "recovers",
            )
        reason = "Available" if own else "External" if service.spec.predictor.url else "Shared"
        return result(reason, f"{facts.version or 'a predictor'} at {url}")
    if own:
        fault = diagnose(pods_of(observed.pods, PREDICTOR), observed.events)
        if fault:
            return result("Failing", f"{fault.reason}: {fault.message}")
        deployment = observed.deployments.get(service.child(PREDICTOR), {})
        if not deployment.get("status", {}).get("availableReplicas"):
            return result(
                "Starting",
                f"its first pod starts; until then {_MEDIAN_LENGTH}",
            )
    if facts is None:
        return result("NotAsked", f"{url} was not asked yet")
    return result("Unreachable", f"{facts.problem}; {_MEDIAN_LENGTH}")


def _scaling(service: LLMService, scaling: ScalingDecision | None) -> Condition:
    if scaling is None:
        replicas = 1 if service.spec.replicas is None else service.spec.replicas
        return _condition(
            ConditionType.SCALING, "Fixed", f"{replicas} replicas, set by spec.replicas"
        )
    return _condition(ConditionType.SCALING, str(scaling.reason), scaling.message)


def _cache(service: LLMService, observed: Observed) -> Condition:
    def result(reason: str, message: str) -> Condition:
        return _condition(ConditionType.CACHE, reason, message)

    name = cache_claim(service)
    if name is None:
        return result("NotRequested", "spec.modelCache is not set")
    foreign = observed.foreign_named(name)
    if foreign:
        return result("NameConflict", foreign)
    refused = observed.refused.get(("PersistentVolumeClaim", service.child(CACHE)))
    if refused:
        return result("ManifestRefused", refused)
    claim = observed.claims.get(name)
    if claim is None:
        if name in observed.missing_claims:
            return result("ClaimNotFound", f"there is no claim {name!r} in this namespace")
        return result("NotCreated", f"the claim {name!r} does not exist yet")
    return _claim_condition(name, claim, observed)


def _claim_condition(name: str, claim: Body, observed: Observed) -> Condition:
    phase = claim.get("status", {}).get("phase", "Pending")
    if phase == "Bound":
        return _condition(ConditionType.CACHE, "Bound", f"{name} is bound")
    if phase == "Lost":
        return _condition(ConditionType.CACHE, "Lost", f"{name} lost its volume")
    if not pods_of(observed.pods, ENGINE):
        return _condition(
            ConditionType.CACHE, "WaitingForFirstPod", f"{name} gets its volume with the first pod"
        )
    return _condition(ConditionType.CACHE, "Pending", f"{name} has no volume yet")
