"""Whole plans: the observed state is the input, the actions are the output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.operator.kubernetes_objects import engine
from tests.operator.manifests import engine_replicas

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_operator.queue_plan import queue_settings

if TYPE_CHECKING:
    from tests.operator.conftest import MakeFacts, MakeService


def test_a_second_plan_changes_nothing(plan: Any) -> None:
    first = plan()
    second = plan(status=first.status, state=first.state)
    assert second.status is None
    assert second.events == []
    assert second.queue_settings is None
    assert list(second.apply) == list(first.apply)


def test_replicas_left_out_are_one(plan: Any) -> None:
    assert engine_replicas(plan()) == 1


def test_zero_replicas_are_zero(plan: Any) -> None:
    assert engine_replicas(plan(replicas=0)) == 0


def test_a_missing_queue_is_created(plan: Any) -> None:
    made = plan(seen={"queue": None}, queue={"policy": "fcfs", "maxDepth": 7, "requestTTL": "1m"})
    assert made.queue_settings["policy"] == "fcfs"
    assert made.queue_settings["max_depth"] == 7
    assert made.queue_settings["request_ttl_ms"] == 60_000


def test_settings_that_the_spec_does_not_determine_are_not_sent(
    plan: Any, service: MakeService, facts: MakeFacts
) -> None:
    there = queue_settings(service()) | {"max_model_len": 2048, "overtake_factor": 9.0}
    settings = plan(seen={"queue": facts(settings=there)}).queue_settings
    assert "max_model_len" not in settings  # the worker sets it
    assert settings["overtake_factor"] == QueueSettings().overtake_factor


def test_a_setting_that_the_queue_service_lacks_is_not_sent(
    plan: Any, service: MakeService, facts: MakeFacts
) -> None:
    there = queue_settings(service())
    assert plan(seen={"queue": facts(settings=there)}).queue_settings is None
    having = facts(settings={**there, "min_rank_accuracy": 0.9})
    sent = plan(seen={"queue": having}).queue_settings
    assert sent["min_rank_accuracy"] == QueueSettings().min_rank_accuracy


def test_the_drift_window_and_the_record_are_sent_to_the_queue(
    plan: Any, service: MakeService, facts: MakeFacts
) -> None:
    there = queue_settings(service()) | {"drift_window_ms": 1, "record_rows": 7}
    sent = plan(seen={"queue": facts(settings=there)}).queue_settings
    default = QueueSettings()
    assert sent["drift_window_ms"] == default.drift_window_ms
    assert sent["record_rows"] == default.record_rows
    wanted = {"predictor": {"driftWindow": "0s"}, "queue": {"recordRows": 500}}
    sent = plan(seen={"queue": facts(settings=there)}, **wanted).queue_settings
    assert (sent["drift_window_ms"], sent["record_rows"]) == (None, 500)


def test_learning_and_the_revision_of_the_llm_are_sent_to_the_queue(
    plan: Any, service: MakeService, facts: MakeFacts
) -> None:
    there = queue_settings(service()) | {"learning": "?", "keep_words": "?", "llm": None}
    sent = plan(seen={"queue": facts(settings=there)}).queue_settings
    assert (sent["learning"], sent["keep_words"]) == ("auto", "hashed")
    wanted = {
        "predictor": {"learning": "off", "keepWords": "readable"},
        "model": {"uri": "hf://org/m", "revision": "v2"},
    }
    sent = plan(seen={"queue": facts(settings=there)}, **wanted).queue_settings
    assert (sent["learning"], sent["keep_words"], sent["llm"]) == (
        "off",
        "readable",
        "hf://org/m@v2",
    )


@pytest.mark.parametrize(
    ("predictor", "want"),
    [
        ({}, None),
        ({"replicas": 0}, ""),
        ({"replicas": 1}, "http://chat-predictor.team.svc:8081"),
        ({"url": "http://mine"}, "http://mine"),
    ],
    ids=["shared", "off", "own", "external"],
)
def test_the_queue_service_gets_the_url_of_the_predictor(
    plan: Any, service: MakeService, facts: MakeFacts, predictor: dict[str, Any], want: str | None
) -> None:
    there = queue_settings(service()) | {"predictor_url": "http://before"}
    found = plan(seen={"queue": facts(settings=there)}, predictor=predictor)
    assert found.queue_settings["predictor_url"] == want


def test_a_broken_rule_changes_nothing_but_the_status(plan: Any) -> None:
    found = plan(replicas=1, autoscaling={})
    assert (list(found.apply), found.delete, found.queue_settings) == ([], [], None)
    assert found.status["conditions"][0]["reason"] == "InvalidSpec"
    assert [e.type for e in found.events if e.reason == "InvalidSpec"] == ["Warning"]


def test_a_service_whose_queue_belongs_to_another_changes_nothing(plan: Any) -> None:
    found = plan(seen={"name_owner": "other/chat"})
    assert (list(found.apply), found.queue_settings) == ([], None)
    assert "queue" not in found.status  # the numbers are those of the other service


def test_the_engine_is_not_changed_during_a_rollout_of_the_queue_service(plan: Any) -> None:
    here = {"deployments": {"chat-engine": engine()}, "others": [("Deployment", "chat-engine")]}
    found = plan(seen={**here, "queue_rolling": True})
    sent = [(m["kind"], m["metadata"]["name"]) for m in found.apply]
    assert ("Service", "chat-engine") in sent
    assert ("Deployment", "chat-engine") not in sent
    assert found.delete == []
    assert found.waits
    assert not plan(seen=here).waits


def test_a_child_that_is_no_longer_wanted_is_deleted(plan: Any) -> None:
    others = [
        ("Deployment", "chat-engine"),
        ("PodDisruptionBudget", "chat-engine"),
        ("PersistentVolumeClaim", "chat-model-cache"),
    ]
    assert plan(seen={"others": others}).delete == [("PodDisruptionBudget", "chat-engine")]


def test_the_autoscaler_starts_at_its_minimum_and_scales_up_for_a_job(
    plan: Any, facts: MakeFacts
) -> None:
    asleep = plan(autoscaling={}, seen={"deployments": {}})
    assert engine_replicas(asleep) == 0
    job = facts(depth=1, backlog_tokens=100.0)
    woken = plan(autoscaling={}, seen={"deployments": {}, "queue": job}, status=asleep.status)
    assert engine_replicas(woken) == 1
    assert woken.status["desiredReplicas"] == 1
    (event,) = (e for e in woken.events if e.reason == "WokenByJob")
    assert "1 jobs wait" in event.message


def test_the_backlog_is_measured_in_time_of_one_replica(plan: Any, facts: MakeFacts) -> None:
    # 64 slots, 20 ms a token: 384,000 tokens are 120 s for one replica, so 4 meet 30 s.
    job = facts(depth=400, backlog_tokens=384_000.0)
    found = plan(autoscaling={"maxReplicas": 9}, seen={"queue": job})
    assert found.scaling.replicas == 4


def test_a_deployment_scaled_by_hand_is_scaled_back(plan: Any) -> None:
    found = plan(
        autoscaling={"minReplicas": 1},
        seen={"deployments": {"chat-engine": engine(5)}},
        status={"desiredReplicas": 1},
    )
    assert engine_replicas(found) == 1


def test_a_restarted_operator_keeps_the_desired_replicas(plan: Any) -> None:
    found = plan(
        autoscaling={},
        status={"desiredReplicas": 3},
        seen={"deployments": {"chat-engine": engine(3)}},
    )
    assert engine_replicas(found) == 3


def test_a_paused_queue_starts_no_replica(plan: Any, facts: MakeFacts) -> None:
    job = facts(depth=9, backlog_tokens=1e6, mode="paused")
    found = plan(autoscaling={}, seen={"queue": job}, status={"desiredReplicas": 0})
    assert found.scaling.replicas == 0


def test_numbers_are_written_at_most_every_ten_seconds(plan: Any, facts: MakeFacts) -> None:
    first = plan(at_s=1000)
    busy = facts(depth=5, settings=facts().settings)
    soon = plan(seen={"queue": busy}, status=first.status, state=first.state, at_s=1004)
    assert soon.status is None
    late = plan(seen={"queue": busy}, status=first.status, state=soon.state, at_s=1011)
    assert late.status["queue"]["depth"] == 5


def test_a_changed_reason_is_written_at_once(plan: Any) -> None:
    first = plan(at_s=1000)
    gone = plan(
        seen={"deployments": {"chat-engine": engine(1, 0)}},
        status=first.status,
        state=first.state,
        at_s=1001,
    )
    assert gone.status["conditions"][0]["status"] == "False"


def test_an_event_is_posted_when_a_reason_changes_and_only_then(plan: Any) -> None:
    first = plan()
    down = {"deployments": {"chat-engine": engine(1, 0)}}
    second = plan(seen=down, status=first.status, state=first.state)
    assert [e.reason for e in second.events] == ["Starting"]
    third = plan(seen=down, status=second.status, state=second.state)
    assert third.events == []
