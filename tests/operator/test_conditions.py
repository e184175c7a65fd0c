"""Conditions as `kubectl describe` shows them, from statuses in the form that Kubernetes writes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.operator.kubernetes_objects import crashed, deployment, pod

from lengthwise_operator.autoscaling import ScalingDecision, ScalingReason
from lengthwise_operator.conditions import Condition, merged
from lengthwise_operator.observed import PredictorFacts
from lengthwise_operator.reasons import ConditionType

if TYPE_CHECKING:
    from tests.operator.conftest import MakeFacts


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
