"""Conditions as `kubectl describe` shows them, from statuses in the form that Kubernetes writes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from lengthwise_operator.autoscaling import ScalingDecision, ScalingReason
from lengthwise_operator.conditions import Condition, conditions, merged
from lengthwise_operator.diagnosis import diagnose, stuck_pods
from lengthwise_operator.installation import Installation
from lengthwise_operator.observed import Observed, PredictorFacts
from lengthwise_operator.reasons import REASONS, ConditionType

if TYPE_CHECKING:
    from tests.operator.conftest import MakeFacts, MakeService

WELL = PredictorFacts(version="bundled-1", problem="")


def pod(
    *,
    name: str = "chat-engine-1",
    part: str = "engine",
    phase: str = "Running",
    created: str = "2026-03-01T11:59:00Z",
    conditions: list[dict[str, Any]] | None = None,
    containers: list[dict[str, Any]] | None = None,
    init: list[dict[str, Any]] | None = None,
    **status: Any,
) -> dict[str, Any]:
    """A pod as the API shows it."""
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "creationTimestamp": created,
            "labels": {"app.kubernetes.io/component": part},
        },
        "status": {
            "phase": phase,
            "conditions": conditions or [],
            "containerStatuses": containers or [],
            "initContainerStatuses": init or [],
            **status,
        },
    }


def waiting(name: str, reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    """A container that waits."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"name": name, "ready": False, "restartCount": 0, "state": state, **more}


def crashed(name: str, log: str, *, code: int = 1, reason: str = "Error") -> dict[str, Any]:
    """A container in CrashLoopBackOff, with the end of its log."""
    ended = {"terminated": {"exitCode": code, "reason": reason, "message": log}}
    return waiting(name, "CrashLoopBackOff", lastState=ended, restartCount=2)


def deployment(
    *, wanted: int = 1, available: int = 0, fresh: int | None = None, total: int | None = None
) -> dict[str, Any]:
    """The engine's Deployment, as its controller reports it."""
    fresh = wanted if fresh is None else fresh
    status = {
        "replicas": fresh if total is None else total,
        "readyReplicas": available,
        "availableReplicas": available,
        "updatedReplicas": fresh,
    }
    return {"metadata": {"name": "chat-engine"}, "spec": {"replicas": wanted}, "status": status}


@pytest.fixture
def judge(service: MakeService, installation: Installation, facts: MakeFacts) -> Any:
    """judge(observed fields, spec=..., scaling=..., broken=...) -> {type: condition}."""

    def judge(
        *,
        spec: dict[str, Any] | None = None,
        scaling: ScalingDecision | None = None,
        broken: list[str] | None = None,
        deleted: str | None = None,
        **seen: Any,
    ) -> dict[ConditionType, Condition]:
        whole: dict[str, Any] = {
            "deployments": {"chat-engine": deployment(available=1)},
            "queue": facts(),
            "predictor": WELL,
            "served_queue": "chat",
        }
        found = conditions(
            service(deleted=deleted, **(spec or {})),
            Observed(**(whole | seen)),
            installation,
            scaling,
            broken or [],
        )
        return {c.type: c for c in found}

    return judge


def test_a_healthy_service_is_ready(judge: Any) -> None:
    found = judge()
    assert set(found) == set(ConditionType)
    assert {c.status for c in found.values()} == {"True"}
    assert found[ConditionType.READY].reason == "Ready"


def test_ready_takes_the_reason_of_a_condition_that_is_not_true(judge: Any) -> None:
    found = judge(queue=None, queue_problem="the queue service does not answer")
    ready = found[ConditionType.READY]
    assert (ready.status, ready.reason) == ("Unknown", "QueueServiceUnreachable")
    assert ready.message == "QueueReady: the queue service does not answer"


def test_a_false_condition_takes_precedence_over_an_unknown_one(judge: Any) -> None:
    found = judge(name_owner="other/chat", deployments={})
    assert found[ConditionType.ENGINE].status == "Unknown"
    assert found[ConditionType.READY].reason == "NameTaken"
    assert found[ConditionType.READY].status == "False"


def test_a_service_without_replicas_is_ready_with_the_reason(judge: Any) -> None:
    found = judge(deployments={"chat-engine": deployment(wanted=0)})
    assert (found[ConditionType.READY].status, found[ConditionType.READY].reason) == (
        "True",
        "ScaledToZero",
    )


def test_every_reason_of_a_fault_is_documented(judge: Any) -> None:
    # `_condition` looks up the status in REASONS; the reasons of faults come from `diagnosis.py`.
    documented = {reason for table in REASONS.values() for reason in table}
    for fault in FAULTS:
        assert fault[1] in documented


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    (
        pod(
            phase="Pending",
            init=[crashed("check-model", "no model at /mnt/model/x (pvc://w/x)\nls: Error")],
        ),
        "ModelNotFound",
        "no model at /mnt/model/x",
    ),
    (
        pod(
            phase="Pending",
            containers=[
                waiting("main", "ImagePullBackOff", 'Back-off pulling image "vllm:typo"')
                | {"image": "vllm:typo"}
            ],
        ),
        "ImagePullFailed",
        "vllm:typo",
    ),
    (
        pod(
            phase="Pending",
            containers=[
                waiting("worker", "CreateContainerConfigError", 'secret "lw-redis" not found')
            ],
        ),
        "ContainerConfigError",
        'secret "lw-redis" not found',
    ),
    (
        pod(
            phase="Pending",
            conditions=[
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
                }
            ],
        ),
        "Unschedulable",
        "No node has enough free GPUs",
    ),
    (
        pod(
            phase="Pending",
            conditions=[
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": 'persistentvolumeclaim "weights" not found',
                }
            ],
        ),
        "Unschedulable",
        "Create the claim",
    ),
    (
        pod(
            containers=[
                crashed("main", "INFO starting\nValueError: max_model_len is too large\nbye\n")
            ]
        ),
        "CrashLooping",
        "ValueError: max_model_len is too large",
    ),
    (
        pod(containers=[crashed("main", "", code=137, reason="OOMKilled")]),
        "OutOfMemory",
        "raise resources.limits.memory",
    ),
    (
        pod(containers=[crashed("worker", "bad settings (LENGTHWISE_WORKER_*)")]),
        "WorkerFailing",
        "bad settings",
    ),
    (
        pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
        "Evicted",
        "low on resource",
    ),
]


@pytest.mark.parametrize(("broken", "reason", "text"), FAULTS, ids=[f[1] for f in FAULTS])
def test_a_pod_that_does_not_run_is_explained(
    judge: Any, broken: dict[str, Any], reason: str, text: str
) -> None:
    found = judge(deployments={"chat-engine": deployment()}, pods=[broken])
    engine = found[ConditionType.ENGINE]
    assert (engine.status, engine.reason) == ("False", reason)
    assert text in engine.message
    assert found[ConditionType.READY].reason == reason


def test_a_fault_beside_ready_replicas_degrades_the_engine(judge: Any) -> None:
    found = judge(
        deployments={"chat-engine": deployment(wanted=2, available=1, total=2)}, pods=[FAULTS[1][0]]
    )
    engine = found[ConditionType.ENGINE]
    assert (engine.status, engine.reason) == ("True", "Degraded")
    assert "ImagePullFailed" in engine.message


def test_a_service_is_ready_during_a_rollout(judge: Any) -> None:
    found = judge(deployments={"chat-engine": deployment(available=1, fresh=1, total=2)})
    assert found[ConditionType.ENGINE].reason == "RollingOut"
    assert found[ConditionType.READY].status == "True"


def test_a_change_that_the_controller_has_not_observed_is_a_rollout(judge: Any) -> None:
    # A test on a cluster found the service Ready, with the new generation, and the old engine.
    stale = deployment(available=1)
    stale["metadata"]["generation"] = 2
    stale["status"]["observedGeneration"] = 1
    found = judge(deployments={"chat-engine": stale})
    assert found[ConditionType.ENGINE].reason == "RollingOut"


def test_an_engine_that_still_loads_is_starting(judge: Any) -> None:
    running = {"name": "main", "ready": False, "restartCount": 0, "state": {"running": {}}}
    found = judge(deployments={"chat-engine": deployment()}, pods=[pod(containers=[running])])
    assert found[ConditionType.ENGINE].reason == "Starting"


def test_a_pod_that_is_being_deleted_is_no_fault() -> None:
    leaving = pod(containers=[crashed("main", "Error")])
    leaving["metadata"]["deletionTimestamp"] = "2026-03-01T11:59:30Z"
    assert diagnose([leaving], []) is None


def test_the_gravest_fault_is_named_when_pods_differ() -> None:
    fault = diagnose([FAULTS[3][0], FAULTS[0][0]], [])
    assert fault is not None
    assert fault.reason == "ModelNotFound"


def test_a_volume_that_cannot_be_mounted_is_found_in_the_warnings() -> None:
    stuck = pod(phase="Pending", containers=[waiting("main", "ContainerCreating")])
    warning = {
        "involvedObject": {"uid": stuck["metadata"]["uid"]},
        "reason": "FailedMount",
        "message": "hostPath type check failed",
    }
    assert diagnose([stuck], []) is None
    fault = diagnose([stuck], [warning])
    assert fault is not None
    assert (fault.reason, "type check" in fault.message) == ("VolumeNotMounted", True)


def test_only_stuck_pods_without_a_cause_are_looked_up(now: datetime) -> None:
    silent = pod(name="a", phase="Pending", containers=[waiting("main", "ContainerCreating")])
    fresh = pod(name="b", phase="Pending", created="2026-03-01T11:59:55Z")
    explained = FAULTS[1][0]
    assert stuck_pods([silent, fresh, explained, pod(name="c")], now) == ["uid-a"]


def test_what_the_api_server_refuses_is_a_condition(judge: Any) -> None:
    found = judge(deployments={}, refused={("Deployment", "chat-engine"): "spec.x: Forbidden: no"})
    engine = found[ConditionType.ENGINE]
    assert (engine.reason, engine.message) == ("ManifestRefused", "spec.x: Forbidden: no")


def test_of_two_services_with_one_model_name_the_younger_reports_it(judge: Any) -> None:
    queue = judge(name_owner="other/chat")[ConditionType.QUEUE]
    assert (queue.status, queue.reason) == ("False", "NameTaken")
    assert "other/chat" in queue.message


def test_a_changed_model_name_is_refused_with_the_remedy(judge: Any) -> None:
    queue = judge(served_queue="old-name")[ConditionType.QUEUE]
    assert queue.reason == "ModelNameChanged"
    assert "create a second LLMService" in queue.message


@pytest.mark.parametrize(
    ("mode", "reason"), [("paused", "Paused"), ("draining", "Draining"), ("open", "Accepting")]
)
def test_the_mode_of_the_queue_is_the_reason(
    judge: Any, facts: MakeFacts, mode: str, reason: str
) -> None:
    assert judge(queue=facts(mode=mode))[ConditionType.QUEUE].reason == reason


def test_the_message_of_an_accepting_queue_has_no_numbers(judge: Any, facts: MakeFacts) -> None:
    # A number in the message would be a write to the cluster for every job.
    messages = {judge(queue=facts(depth=n))[ConditionType.QUEUE].message for n in (0, 5)}
    assert len(messages) == 1


def test_a_low_rank_accuracy_is_reported_with_its_value(judge: Any, facts: MakeFacts) -> None:
    low = facts(fallback_active=True, rank_accuracy=0.52, active_policy="fcfs")
    predictor = judge(queue=low)[ConditionType.PREDICTOR]
    assert (predictor.status, predictor.reason) == ("False", "RankAccuracyLow")
    assert "0.52" in predictor.message


def test_an_unreachable_predictor_is_reported_with_the_consequence(judge: Any) -> None:
    away = PredictorFacts(version="", problem="http://p does not answer")
    predictor = judge(predictor=away)[ConditionType.PREDICTOR]
    assert predictor.reason == "Unreachable"
    assert "every job is assumed to have the median length" in predictor.message


def test_a_refused_model_is_reported_with_the_model_that_predicts(judge: Any) -> None:
    refused = PredictorFacts(version="v1", problem="", refused="cannot read /model/m/model.json")
    predictor = judge(predictor=refused)[ConditionType.PREDICTOR]
    assert (predictor.status, predictor.reason) == ("False", "ModelRefused")
    assert predictor.message == "cannot read /model/m/model.json; v1 predicts instead"


def test_a_crash_of_the_services_own_predictor_is_explained(judge: Any) -> None:
    dead = pod(part="predictor", containers=[crashed("main", "ModelUnusable: no model.onnx")])
    away = PredictorFacts(version="", problem="refused")
    found = judge(spec={"predictor": {"replicas": 1}}, predictor=away, pods=[dead])
    predictor = found[ConditionType.PREDICTOR]
    assert predictor.reason == "Failing"
    assert "no model.onnx" in predictor.message


@pytest.mark.parametrize(
    ("claims", "missing", "pods", "reason"),
    [
        ({"shared": {"status": {"phase": "Bound"}}}, [], [], "Bound"),
        ({"shared": {"status": {"phase": "Pending"}}}, [], [], "WaitingForFirstPod"),
        ({"shared": {"status": {"phase": "Pending"}}}, [], [pod()], "Pending"),
        ({"shared": {"status": {"phase": "Lost"}}}, [], [], "Lost"),
        ({}, ["shared"], [], "ClaimNotFound"),
        ({}, [], [], "NotCreated"),
    ],
)
def test_the_cache_is_judged_by_its_claim(
    judge: Any, claims: Any, missing: list[str], pods: list[Any], reason: str
) -> None:
    spec = {"modelCache": {"existingClaim": "shared"}}
    found = judge(spec=spec, claims=claims, missing_claims=missing, pods=pods)
    assert found[ConditionType.CACHE].reason == reason


def test_the_autoscalers_reason_and_numbers_are_the_scaling_condition(judge: Any) -> None:
    decision = ScalingDecision(
        replicas=2, reason=ScalingReason.BACKLOG, message="1 -> 2 replicas: ...", history=()
    )
    scaling = judge(spec={"autoscaling": {}}, scaling=decision)[ConditionType.SCALING]
    assert (scaling.reason, scaling.message) == ("BacklogAboveTarget", "1 -> 2 replicas: ...")


def test_a_broken_rule_is_the_reason_of_ready(judge: Any) -> None:
    found = judge(broken=["give replicas or autoscaling, not both"])
    ready = found[ConditionType.READY]
    assert (ready.status, ready.reason) == ("False", "InvalidSpec")
    assert "not both" in ready.message
    assert found[ConditionType.ENGINE].status == "True"  # the engine continues


def test_a_deletion_is_reported_with_the_remaining_jobs(judge: Any, facts: MakeFacts) -> None:
    found = judge(
        deleted="2026-03-01T11:59:00Z", queue=facts(mode="draining", depth=3, in_flight=2)
    )
    ready = found[ConditionType.READY]
    assert ready.reason == "Deleting"
    assert "3 waiting, 2 running" in ready.message


def test_the_time_of_a_condition_is_that_of_its_last_change(now: datetime) -> None:
    true = Condition(type=ConditionType.ENGINE, status="True", reason="Available", message="")
    first = merged([true], [], 1, now)
    later = now + timedelta(minutes=5)
    again = merged([replace(true, reason="RollingOut")], first, 2, later)
    assert again[0]["lastTransitionTime"] == "2026-03-01T12:00:00Z"
    assert (again[0]["reason"], again[0]["observedGeneration"]) == ("RollingOut", 2)
    changed = merged([replace(true, status="False")], again, 2, later)
    assert changed[0]["lastTransitionTime"] == "2026-03-01T12:05:00Z"
