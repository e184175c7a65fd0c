"""Decide what to do about one LLMService: a plan, from the desired and the observed state. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lengthwise_operator.autoscaling import (
    Bounds,
    Demand,
    ReplicaSample,
    ScalingDecision,
    decide_replicas,
)
from lengthwise_operator.children.all import all_children
from lengthwise_operator.children.manifest import Manifest
from lengthwise_operator.conditions import conditions
from lengthwise_operator.installation import Apis, Installation
from lengthwise_operator.llmservice.names import ENGINE
from lengthwise_operator.llmservice.rules import broken_rules
from lengthwise_operator.llmservice.service import LLMService
from lengthwise_operator.llmservice.urls import url_problem
from lengthwise_operator.observed import ChildKey, Observed, QueueFacts
from lengthwise_operator.queue_plan import drained, queue_command, settings_to_send
from lengthwise_operator.status_report import ServiceEvent, events_of, status_of, worth_writing


@dataclass(frozen=True, kw_only=True)
class PlannerState:
    """State that the planner passes from one plan to the next; a restart may lose it safely.

    Attributes:
        history: History of the autoscaler.
        status_written_s: When the status was last written, on the monotonic clock, s.
    """

    history: tuple[ReplicaSample, ...] = ()
    status_written_s: float = -1e9


@dataclass(frozen=True, kw_only=True)
class ServicePlan:
    """The actions for one service, in this order.

    Attributes:
        queue_settings: Settings to send to the queue service; None: the queue has them.
        queue_command: "drain", "resume", or "" for none.
        apply: Manifests of the children; one that is already stored is not sent again.
        delete: Children that are no longer wanted.
        scale: Replicas to set on the engine's Deployment of a service that is being deleted, which
            is otherwise left as it is; None: it has them.
        status: Status to write; None: it is unchanged, or was written too recently.
        events: Events to post.
        gone: Whether a deletion is finished, so that the finalizer may be removed.
        state: Input of the next plan.
        scaling: Decision of the autoscaler; None: the number of replicas is fixed.
        waits: Whether the engine is missing in `apply` until the queue service is rolled out.
    """

    queue_settings: dict[str, Any] | None
    queue_command: str
    apply: Sequence[Manifest]
    delete: Sequence[ChildKey]
    scale: int | None
    status: dict[str, Any] | None
    events: Sequence[ServiceEvent]
    gone: bool
    state: PlannerState
    scaling: ScalingDecision | None
    waits: bool


def make_plan(
    service: LLMService,
    observed: Observed,
    installation: Installation,
    apis: Apis,
    state: PlannerState,
    *,
    now: datetime,
    now_s: float,
) -> ServicePlan:
    """Make the plan for one service.

    Args:
        service: The desired state.
        observed: The observed state.
        installation: What all services share.
        apis: Which optional APIs the API server offers.
        state: From the last plan.
        now: Wall clock, for the times of conditions and of a deletion.
        now_s: Monotonic clock, for delays, s.
    """
    broken = [rule.message for rule in broken_rules(service.name, service.spec)]
    broken += observed.spec_problems
    broken += _forbidden(service, installation)
    renamed = observed.served_queue is not None and observed.served_queue != service.queue
    # Nothing but the status is changed while the spec is invalid or the queue is another service's.
    suspended = bool(broken or renamed or observed.name_owner)
    if service.deleted:
        # What runs is left as it is until its queue is served. No spec can prevent that.
        suspended = bool(observed.name_owner) and observed.served_queue is None
    scaling = None if suspended else _scale(service, observed, state, now_s)
    replicas = _replicas(service, observed, scaling)
    children = not suspended and not service.deleted
    wanted = all_children(service, installation, apis, replicas) if children else []
    # An older queue service does not read all that newer workers send: docs/decisions/0004.
    held = ("Deployment", service.child(ENGINE)) if observed.queue_rolling else None
    found = conditions(service, observed, installation, scaling, broken)
    status = status_of(service, observed, installation, found, replicas, now)
    write = worth_writing(service.status, status, now_s - state.status_written_s)
    return ServicePlan(
        queue_settings=None
        if suspended or service.deleted
        else settings_to_send(service, observed, installation),
        queue_command="" if suspended else queue_command(service, observed),
        apply=[m for m in wanted if (m["kind"], m["metadata"]["name"]) != held],
        delete=_unwanted(observed, wanted) if wanted else [],
        scale=_last_scale(service, observed, scaling),
        status=status if write else None,
        events=events_of(service, found, scaling),
        gone=service.deleted is not None and drained(service, observed, now, suspended=suspended),
        state=PlannerState(
            history=scaling.history if scaling else (),
            status_written_s=now_s if write else state.status_written_s,
        ),
        scaling=scaling,
        waits=held is not None,
    )


def _forbidden(service: LLMService, installation: Installation) -> list[str]:
    """Return what this installation allows no user of a namespace."""
    urls = {"engine.url": service.spec.engine.url, "predictor.url": service.spec.predictor.url}
    found = {
        field: url_problem(url, service.namespace, installation.allowed_urls)
        for field, url in urls.items()
        if url
    }
    refused = [f"{field}: {problem}" for field, problem in found.items() if problem]
    if service.namespace.startswith("kube-"):
        refused.append(
            "the namespaces kube-* belong to Kubernetes: create the LLMService in another"
        )
    return refused


def _scale(
    service: LLMService, observed: Observed, state: PlannerState, now_s: float
) -> ScalingDecision | None:
    wanted = service.spec.autoscaling
    if wanted is None:
        return None
    bounds = Bounds(
        min_replicas=wanted.min_replicas,
        max_replicas=wanted.max_replicas,
        target_backlog_s=wanted.target_backlog_seconds,
        scale_down_delay_s=wanted.scale_down_delay_seconds,
        slots=service.slots,
    )
    last = _last_desired(service, observed)
    current = wanted.min_replicas if last is None else last
    demand = _demand(service, observed.queue)
    return decide_replicas(now_s, current, state.history, demand, bounds)


def _last_desired(service: LLMService, observed: Observed) -> int | None:
    """The number that was desired last; the Deployment may have been scaled by hand since."""
    last = service.status.get("desiredReplicas")
    if last is None:
        deployment = observed.deployments.get(service.child(ENGINE))
        last = deployment["spec"].get("replicas") if deployment else None
    return last


def _demand(service: LLMService, queue: QueueFacts | None) -> Demand | None:
    if queue is None:
        return None
    # More engines would not serve a paused queue faster.
    waiting = 0 if queue.mode == "paused" else 1
    backlog_ms = queue.backlog_tokens * queue.ms_per_token / service.slots
    return Demand(
        depth=queue.depth * waiting,
        in_flight=queue.in_flight,
        backlog_s=backlog_ms / 1000 * waiting,
    )


def _last_scale(
    service: LLMService, observed: Observed, scaling: ScalingDecision | None
) -> int | None:
    """Replicas for the jobs that a deleted service still has; None: they are as they should be."""
    engine = observed.deployments.get(service.child(ENGINE))
    if service.deleted is None or scaling is None or engine is None:
        return None
    return None if engine["spec"].get("replicas") == scaling.replicas else scaling.replicas


def _replicas(service: LLMService, observed: Observed, scaling: ScalingDecision | None) -> int:
    if scaling is not None:
        return scaling.replicas
    if service.spec.autoscaling is not None:  # the autoscaler is suspended: keep the number
        return _last_desired(service, observed) or 0
    return 1 if service.spec.replicas is None else service.spec.replicas


def _unwanted(observed: Observed, wanted: Sequence[Manifest]) -> list[ChildKey]:
    keep = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in wanted}
    # A claim holds downloads that the user may want back. It is deleted with the service.
    return [key for key in observed.others if key not in keep and key[0] != "PersistentVolumeClaim"]
