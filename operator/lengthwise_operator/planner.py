"""What is to be done about one LLMService: from what is wanted and what was seen, a plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lengthwise_operator.autoscaling import Bounds, Decision, Demand, Sample, decide_replicas
from lengthwise_operator.children.manifests import Manifest, children
from lengthwise_operator.conditions import Condition, conditions, merged
from lengthwise_operator.llmservice.rules import broken_rules
from lengthwise_operator.llmservice.spec import seconds
from lengthwise_operator.observed import ChildKey, Observed, QueueFacts
from lengthwise_operator.reasons import EXPECTED, ConditionType
from lengthwise_operator.service import ENGINE, Apis, Installation, Service

#: Numbers in the status are written at most so often, s: each write goes to etcd and to every
#: watcher, and live numbers are in the metrics.
STATUS_EVERY_S = 10.0

#: When the queue service does not answer, a deletion waits for it so long, s. The jobs are in
#: Redis and outlive the service.
UNREACHABLE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What is carried from one decision to the next; lost in a restart, which does no harm.

    Attributes:
        history: The autoscaler's.
        status_written_s: When the status was last written, on the monotonic clock, s.
    """

    history: tuple[Sample, ...] = ()
    status_written_s: float = -1e9


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """An event on the LLMService."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done, in this order.

    Attributes:
        queue_settings: What the spec says, if the queue has something else; None: it is right.
        queue_command: "drain" or "resume"; "": neither.
        apply: Manifests; what is as it should be is not sent.
        delete: Children that are no longer wanted.
        status: To be written; None: it is right, or was written just now.
        events: To be posted.
        gone: A deletion is finished: the finalizer may go.
        memory: For the next decision.
        scaling: What the autoscaler decided; None: the number is fixed.
        waits: Something was left out of `apply` until the queue service has been rolled out.
    """

    queue_settings: dict[str, Any] | None
    queue_command: str
    apply: Sequence[Manifest]
    delete: Sequence[ChildKey]
    status: dict[str, Any] | None
    events: Sequence[Announcement]
    gone: bool
    memory: Memory
    scaling: Decision | None
    waits: bool


def decide(
    service: Service,
    observed: Observed,
    installation: Installation,
    apis: Apis,
    memory: Memory,
    *,
    now: datetime,
    now_s: float,
) -> Plan:
    """The plan.

    Args:
        service: What is wanted.
        observed: What was seen.
        installation: What all services share.
        apis: What the API server offers.
        memory: Of the last plan.
        now: Wall clock, for the times of conditions and of a deletion.
        now_s: Monotonic clock, for delays, s.
    """
    broken = [rule.message for rule in broken_rules(service.name, service.spec)]
    renamed = observed.served is not None and observed.served != service.queue
    still = bool(broken or renamed or observed.rival)
    scaling = None if still else _scale(service, observed, memory, now_s)
    replicas = _replicas(service, observed, scaling)
    wanted = [] if still else children(service, installation, apis, replicas)
    # An older queue service does not hear of all that newer workers say: decision 4.
    held = ("Deployment", service.child(ENGINE)) if observed.queue_rolling else None
    gone = service.deleted is not None and _drained(service, observed, now, still=still)
    said = conditions(service, observed, installation, scaling, broken)
    status = _status(service, observed, installation, said, replicas, now)
    write = _worth_writing(service.status, status, now_s - memory.status_written_s)
    return Plan(
        queue_settings=None
        if still or service.deleted
        else _settings(service, observed, installation),
        queue_command="" if still else _command(service, observed),
        apply=[m for m in wanted if (m["kind"], m["metadata"]["name"]) != held],
        delete=_unwanted(observed, wanted) if wanted else [],
        status=status if write else None,
        events=_events(service, said, scaling),
        gone=gone,
        memory=Memory(
            history=scaling.history if scaling else (),
            status_written_s=now_s if write else memory.status_written_s,
        ),
        scaling=scaling,
        waits=held is not None,
    )


def queue_settings(service: Service) -> dict[str, Any]:
    """What the spec says about the queue, in the words of `PUT /v1/queues/{name}`."""
    spec = service.spec.queue
    out: dict[str, Any] = {
        "policy": spec.policy,
        "overtake_factor": spec.overtake_factor,
        "max_depth": spec.max_depth,
        "request_ttl_ms": round(seconds(spec.request_ttl) * 1000),
        "classes": [
            {"name": c.name, "offset_ms": round(seconds(c.offset) * 1000)} for c in spec.classes
        ],
    }
    if service.spec.model.max_model_len is not None:
        out["max_model_len"] = service.spec.model.max_model_len
    return out


def _optional_settings(service: Service, installation: Installation) -> dict[str, Any]:
    """Settings that a queue service may be too old for; sent only where it shows them."""
    least = service.spec.predictor.min_rank_accuracy
    window_ms = round(seconds(service.spec.predictor.drift_window) * 1000)
    url = service.predictor_url(installation)
    # To the queue service, null is the shared predictor, which it knows, and "" is none.
    shared = url is not None and url == installation.predictor_url
    return {
        "overtake_wait_factor": service.spec.queue.overtake_wait_factor,
        "min_rank_accuracy": least if least >= 0.5 else None,
        "drift_window_ms": window_ms or None,
        "record_rows": service.spec.queue.record_rows,
        "predictor_url": None if shared else url or "",
    }


def _settings(
    service: Service, observed: Observed, installation: Installation
) -> dict[str, Any] | None:
    """What the spec says of the queue, if that is not what is there."""
    if observed.queue_problem:
        return None
    wanted = queue_settings(service)
    if observed.queue is None:
        return wanted
    there = observed.queue.settings
    optional = _optional_settings(service, installation)
    wanted |= {name: value for name, value in optional.items() if name in there}
    return wanted if any(there.get(k) != v for k, v in wanted.items()) else None


def _command(service: Service, observed: Observed) -> str:
    queue = observed.queue
    if queue is None:
        return ""
    if service.deleted:
        return "" if queue.mode == "draining" else "drain"
    # A queue left draining by a service of this name that was deleted. One with an engine is
    # draining because somebody wants it to.
    reborn = observed.deployments.get(service.child(ENGINE)) is None
    return "resume" if queue.mode == "draining" and reborn else ""


def _drained(service: Service, observed: Observed, now: datetime, *, still: bool) -> bool:
    """Whether nothing is left to wait for before everything is removed."""
    if still or service.deleted is None:
        return True
    waited_s = (now - service.deleted).total_seconds()
    limit_s = service.spec.drain.delete_timeout_seconds
    if waited_s >= limit_s:
        return True
    if observed.queue_problem:
        return waited_s >= UNREACHABLE_S
    queue = observed.queue
    if queue is None:
        return True
    # A queue service without modes cannot stop admission; then an empty line has to do.
    closed = queue.mode == "draining" or ("QueueCommand", service.queue) in observed.refused
    return closed and queue.depth == 0 and queue.in_flight == 0


def _scale(service: Service, observed: Observed, memory: Memory, now_s: float) -> Decision | None:
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
    current = _last_wanted(service, observed)
    demand = _demand(service, observed.queue)
    return decide_replicas(
        now_s, wanted.min_replicas if current is None else current, memory.history, demand, bounds
    )


def _last_wanted(service: Service, observed: Observed) -> int | None:
    """What was wanted last. Not what the Deployment has: somebody may have scaled that by hand."""
    last = service.status.get("desiredReplicas")
    if last is None:
        deployment = observed.deployments.get(service.child(ENGINE))
        last = deployment["spec"].get("replicas") if deployment else None
    return last


def _demand(service: Service, queue: QueueFacts | None) -> Demand | None:
    if queue is None:
        return None
    # More engines would not serve a paused queue faster.
    waiting = 0 if queue.mode == "paused" else 1
    work_ms = queue.backlog_tokens * queue.ms_per_token / service.slots
    return Demand(
        depth=queue.depth * waiting, in_flight=queue.in_flight, work_s=work_ms / 1000 * waiting
    )


def _replicas(service: Service, observed: Observed, scaling: Decision | None) -> int:
    if scaling is not None:
        return scaling.replicas
    if service.spec.autoscaling is not None:  # it may not decide: keep what there is
        return _last_wanted(service, observed) or 0
    return 1 if service.spec.replicas is None else service.spec.replicas


def _unwanted(observed: Observed, wanted: Sequence[Manifest]) -> list[ChildKey]:
    keep = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in wanted}
    # A claim holds downloads that somebody may want back; it goes with the service.
    return [key for key in observed.others if key not in keep and key[0] != "PersistentVolumeClaim"]


def _status(
    service: Service,
    observed: Observed,
    installation: Installation,
    said: Sequence[Condition],
    replicas: int,
    now: datetime,
) -> dict[str, Any]:
    deployment = observed.deployments.get(service.child(ENGINE), {})
    there = deployment.get("status", {})
    selector = ",".join(f"{k}={v}" for k, v in sorted(service.selector(ENGINE).items()))
    status: dict[str, Any] = {
        "observedGeneration": service.generation,
        "replicas": there.get("replicas", 0),
        "readyReplicas": there.get("readyReplicas", 0),
        "desiredReplicas": replicas,
        "selector": selector,
        "url": installation.public_url,
        "conditions": merged(said, service.status.get("conditions", ()), service.generation, now),
    }
    queue = observed.queue
    if queue is not None and not observed.rival:
        alone_s = queue.backlog_tokens * queue.ms_per_token / 1000 / service.slots
        status["queue"] = {
            "depth": queue.depth,
            "inFlight": queue.in_flight,
            "oldestWaitSeconds": round(queue.oldest_wait_s),
            "backlogSeconds": round(alone_s if queue.backlog_s is None else queue.backlog_s, 1),
            "activePolicy": queue.active_policy,
        }
    if observed.predictor is not None:
        status["predictor"] = {"fallbackActive": queue.fallback_active if queue else False}
        if observed.predictor.version:
            status["predictor"]["version"] = observed.predictor.version
        if queue is not None and queue.rank_accuracy is not None:
            status["predictor"]["rankAccuracy"] = round(queue.rank_accuracy, 3)
    return status


def _worth_writing(old: Mapping[str, Any], new: Mapping[str, Any], since_s: float) -> bool:
    if old == new:
        return False
    return _firm(old) != _firm(new) or since_s >= STATUS_EVERY_S


def _firm(status: Mapping[str, Any]) -> Any:
    """The status without what trembles: the queue's numbers, and numbers in messages."""
    firm = {k: v for k, v in status.items() if k not in ("queue", "conditions")}
    parts = [
        (c["type"], c["status"], c["reason"], c.get("observedGeneration"))
        for c in status.get("conditions", ())
    ]
    return firm, parts


def _events(
    service: Service, said: Sequence[Condition], scaling: Decision | None
) -> list[Announcement]:
    before = {c["type"]: c for c in service.status.get("conditions", ())}
    out = []
    for condition in said:
        last = before.get(condition.type, {})
        if last.get("reason") == condition.reason and last.get("status") == condition.status:
            continue
        # What the autoscaler decided is told below; Ready's reasons are those of another; and
        # nobody needs to be told of what is well from the start.
        if condition.type is ConditionType.SCALING or condition.reason == "NotCreated":
            continue
        if not last and condition.status == "True" and condition.type is not ConditionType.READY:
            continue
        if condition.type is ConditionType.READY and condition.reason not in (
            "Ready",
            "InvalidSpec",
            "Deleting",
        ):
            continue
        fine = condition.status != "False" or condition.reason in EXPECTED
        out.append(
            Announcement(
                type="Normal" if fine else "Warning",
                reason=condition.reason,
                message=f"{condition.type}: {condition.message}",
            )
        )
    last_wanted = service.status.get("desiredReplicas")
    if scaling is not None and last_wanted is not None and scaling.replicas != last_wanted:
        out.append(Announcement(type="Normal", reason=str(scaling.reason), message=scaling.message))
    return out
