"""Faults become conditions within a minute, with a message that names the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.cluster.operator.rig import Rig

pytestmark = [pytest.mark.kube, pytest.mark.timeout(200)]

Made = Callable[..., Any]


def with_main(manifest: Any, **change: Any) -> Any:
    manifest["spec"]["podTemplate"]["spec"]["containers"][0] |= change
    return manifest


def test_a_model_path_that_does_not_exist(rig: Rig, made: Made) -> None:
    manifest = rig.simulated("nopath", model={"uri": "path:///models/nothing"})
    image = manifest["spec"]["podTemplate"]["spec"]["containers"][0]["image"]
    manifest["spec"]["engine"]["image"] = image
    made(manifest)
    found = rig.wait_reason("nopath", "ModelNotFound")
    assert "no model at /models/nothing" in found["message"]


def test_a_claim_that_does_not_exist(rig: Rig, made: Made) -> None:
    made(rig.simulated("noclaim", model={"uri": "pvc://weights/m"}))
    found = rig.wait_reason("noclaim", "Unschedulable")
    assert 'persistentvolumeclaim "weights" not found' in found["message"]
    assert "Create the claim" in found["message"]


def test_a_gpu_that_no_node_has(rig: Rig, made: Made) -> None:
    made(rig.simulated("nogpu", resources={"limits": {"nvidia.com/gpu": 1}}))
    found = rig.wait_reason("nogpu", "Unschedulable")
    assert "nvidia.com/gpu" in found["message"]
    assert "No node has enough free GPUs" in found["message"]


def test_an_image_that_cannot_be_pulled(rig: Rig, made: Made) -> None:
    made(with_main(rig.simulated("noimage"), image="registry.invalid/vllm:typo"))
    found = rig.wait_reason("noimage", "ImagePullFailed")
    assert "registry.invalid/vllm:typo" in found["message"]


def test_an_engine_that_crashes_is_reported_with_its_last_error(rig: Rig, made: Made) -> None:
    code = ["-c", "raise ValueError('max_model_len is too large')"]
    made(with_main(rig.simulated("crash"), command=["python"], args=code))
    found = rig.wait_reason("crash", "CrashLooping")
    assert "ValueError: max_model_len is too large" in found["message"]


def test_a_missing_secret_for_redis(rig: Rig, made: Made) -> None:
    manifest = rig.simulated("nosecret")
    url = {"secretKeyRef": {"name": "not-there", "key": "url"}}
    worker = {"name": "worker", "env": [{"name": "HINT", "valueFrom": url}]}
    manifest["spec"]["podTemplate"]["spec"]["containers"].append(worker)
    made(manifest)
    found = rig.wait_reason("nosecret", "ContainerConfigError")
    assert 'secret "not-there" not found' in found["message"]


def test_a_named_cache_that_does_not_exist(rig: Rig, made: Made) -> None:
    made(rig.simulated("nocache", modelCache={"existingClaim": "shared"}))
    found = rig.wait_reason("nocache", "ClaimNotFound", type_="CacheReady")
    assert "'shared'" in found["message"]


def test_a_managed_cache_is_created_and_bound(rig: Rig, made: Made) -> None:
    made(rig.simulated("cache", modelCache={"size": "1Gi"}))
    rig.wait_ready("cache")
    assert rig.condition("cache", "CacheReady")["reason"] == "Bound"


def test_a_rule_that_the_api_server_does_not_check_is_reported_and_nothing_is_created(
    rig: Rig, made: Made
) -> None:
    # On Kubernetes 1.25 and later the API server refuses this at apply; then there is no object.
    manifest = rig.simulated("xor", replicas=1, autoscaling={})
    done = rig.kube("apply", "--validate=false", "-f", "-", stdin=_json(manifest), check=False)
    if not done:
        return
    made(manifest)
    found = rig.wait_reason("xor", "InvalidSpec")
    assert "not both" in found["message"]
    assert rig.kube.get("deployment", "xor-engine") is None


def test_an_invalid_pod_template_is_reported_with_the_message_of_the_api_server(
    rig: Rig, made: Made
) -> None:
    manifest = rig.simulated("nonsense")
    manifest["spec"]["podTemplate"]["spec"]["restartPolicy"] = "Never"
    made(manifest)
    found = rig.wait_reason("nonsense", "ManifestRefused")
    assert "restartPolicy" in found["message"]
    assert rig.operator_alive()


def test_a_second_service_with_the_same_model_name_reports_the_first(rig: Rig, made: Made) -> None:
    made(rig.simulated("first", model={"uri": "hf://simulated/model", "name": "shared-name"}))
    rig.wait_reason("first", "Accepting", type_="QueueReady")
    made(rig.simulated("second", model={"uri": "hf://simulated/model", "name": "shared-name"}))
    found = rig.wait_reason("second", "NameTaken")
    assert f"{rig.kube.namespace}/first" in found["message"]
    assert rig.kube.get("deployment", "second-engine") is None


def test_a_changed_model_name_is_reported_and_the_old_engine_serves(rig: Rig, made: Made) -> None:
    manifest = made(rig.simulated("renamed"))
    rig.wait_ready("renamed")
    manifest["spec"]["model"]["name"] = "another"
    done = rig.kube("apply", "--validate=false", "-f", "-", stdin=_json(manifest), check=False)
    if not done:  # refused at apply: Kubernetes 1.25 and later
        return
    found = rig.wait_reason("renamed", "ModelNameChanged")
    assert "Change it back" in found["message"]
    assert rig.ask("renamed").is_success


def test_a_change_that_cannot_start_leaves_the_old_replica_serving(rig: Rig, made: Made) -> None:
    manifest = made(rig.simulated("stuck"))
    rig.wait_ready("stuck")
    rig.kube.apply(with_main(manifest, image="registry.invalid/vllm:typo"))
    found = rig.wait_reason("stuck", "Degraded", type_="EngineReady")
    assert "ImagePullFailed" in found["message"]
    assert rig.ask("stuck").is_success


def test_a_predictor_for_one_service_is_started(rig: Rig, made: Made) -> None:
    # The operator on the tests' machine may not reach an address inside the cluster. The test
    # checks that the predictor runs, not that the operator asked it.
    made(rig.simulated("own", predictor={"replicas": 1}))

    def runs() -> Any:
        seen = rig.kube.get("deployment", "own-predictor")
        return seen and seen["status"].get("availableReplicas") == 1

    eventually(runs, "the predictor is available", within_s=90, every_s=1)


def _json(manifest: Any) -> str:
    return json.dumps(manifest)
