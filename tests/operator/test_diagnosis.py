"""Why a pod does not run, from statuses in the form that Kubernetes writes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from tests.operator.kubernetes_objects import crashed, deployment, pod, waiting

from lengthwise_operator.diagnosis import diagnose, stuck_pods
from lengthwise_operator.reasons import REASONS, ConditionType

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


def test_every_reason_of_a_fault_is_documented(judge: Any) -> None:
    # `_condition` looks up the status in REASONS; the reasons of faults come from `diagnosis.py`.
    documented = {reason for table in REASONS.values() for reason in table}
    for fault in FAULTS:
        assert fault[1] in documented


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
