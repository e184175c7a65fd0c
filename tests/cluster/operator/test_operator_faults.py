"""What goes wrong is told within a minute, in words that say what to do; never a crash loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.cluster.operator.conftest import Rig

pytestmark = [pytest.mark.kube, pytest.mark.timeout(200)]

Made = Callable[..., Any]


def with_main(manifest: Any, **change: Any) -> Any:
    manifest["spec"]["podTemplate"]["spec"]["containers"][0] |= change
    return manifest


def test_a_model_path_that_is_not_there(rig: Rig, made: Made) -> None:
    manifest = rig.simulated("nopath", model={"uri": "path:///models/nothing"})
    image = manifest["spec"]["podTemplate"]["spec"]["containers"][0]["image"]
    manifest["spec"]["engine"]["image"] = image
    made(manifest)
    said = rig.wait_reason("nopath", "ModelNotFound")
    assert "no model at /models/nothing" in said["message"]


def test_a_claim_that_is_not_there(rig: Rig, made: Made) -> None:
    made(rig.simulated("noclaim", model={"uri": "pvc://weights/m"}))
    said = rig.wait_reason("noclaim", "Unschedulable")
    assert 'persistentvolumeclaim "weights" not found' in said["message"]
    assert "Create the claim" in said["message"]


def test_a_gpu_that_no_node_has(rig: Rig, made: Made) -> None:
    made(rig.simulated("nogpu", resources={"limits": {"nvidia.com/gpu": 1}}))
    said = rig.wait_reason("nogpu", "Unschedulable")
    assert "nvidia.com/gpu" in said["message"]
    assert "No node has enough free GPUs" in said["message"]


def test_an_image_that_cannot_be_pulled(rig: Rig, made: Made) -> None:
    made(with_main(rig.simulated("noimage"), image="registry.invalid/vllm:typo"))
    said = rig.wait_reason("noimage", "ImagePullFailed")
    assert "registry.invalid/vllm:typo" in said["message"]


def test_an_engine_that_ends_by_itself_is_told_with_its_last_words(rig: Rig, made: Made) -> None:
    words = ["-c", "raise ValueError('max_model_len is too large')"]
    made(with_main(rig.simulated("crash"), command=["python"], args=words))
    said = rig.wait_reason("crash", "CrashLooping")
    assert "ValueError: max_model_len is too large" in said["message"]


def test_a_missing_secret_for_redis(rig: Rig, made: Made) -> None:
    manifest = rig.simulated("nosecret")
    url = {"secretKeyRef": {"name": "not-there", "key": "url"}}
    worker = {"name": "worker", "env": [{"name": "HINT", "valueFrom": url}]}
    manifest["spec"]["podTemplate"]["spec"]["containers"].append(worker)
    made(manifest)
    said = rig.wait_reason("nosecret", "ContainerConfigError")
    assert 'secret "not-there" not found' in said["message"]


def test_a_named_cache_that_is_not_there(rig: Rig, made: Made) -> None:
    made(rig.simulated("nocache", modelCache={"existingClaim": "shared"}))
    said = rig.wait_reason("nocache", "ClaimNotFound", type_="CacheReady")
    assert "'shared'" in said["message"]


def test_a_managed_cache_is_made_and_bound(rig: Rig, made: Made) -> None:
    made(rig.simulated("cache", modelCache={"size": "1Gi"}))
    rig.wait_ready("cache")
    assert rig.condition("cache", "CacheReady")["reason"] == "Bound"


def test_a_rule_that_the_api_server_did_not_check_is_told_and_nothing_is_made(
    rig: Rig, made: Made
) -> None:
    # On Kubernetes 1.25 and later the API server refuses this at apply; then there is no object.
    manifest = rig.simulated("xor", replicas=1, autoscaling={})
    done = rig.kube("apply", "--validate=false", "-f", "-", stdin=_json(manifest), check=False)
    if not done:
        return
    made(manifest)
    said = rig.wait_reason("xor", "InvalidSpec")
    assert "not both" in said["message"]
    assert rig.kube.get("deployment", "xor-engine") is None


def test_a_pod_template_that_makes_no_pod_is_told_with_the_api_servers_words(
    rig: Rig, made: Made
) -> None:
    manifest = rig.simulated("nonsense")
    manifest["spec"]["podTemplate"]["spec"]["restartPolicy"] = "Never"
    made(manifest)
    said = rig.wait_reason("nonsense", "ManifestRefused")
    assert "restartPolicy" in said["message"]
    assert rig.operator_alive()


def test_a_second_service_with_the_same_model_name_is_told_whose_it_is(
    rig: Rig, made: Made
) -> None:
    made(rig.simulated("first", model={"uri": "hf://simulated/model", "name": "shared-name"}))
    rig.wait_reason("first", "Accepting", type_="QueueReady")
    made(rig.simulated("second", model={"uri": "hf://simulated/model", "name": "shared-name"}))
    said = rig.wait_reason("second", "NameTaken")
    assert f"{rig.kube.namespace}/first" in said["message"]
    assert rig.kube.get("deployment", "second-engine") is None


def test_a_changed_model_name_is_told_and_the_old_engine_goes_on(rig: Rig, made: Made) -> None:
    manifest = made(rig.simulated("renamed"))
    rig.wait_ready("renamed")
    manifest["spec"]["model"]["name"] = "another"
    done = rig.kube("apply", "--validate=false", "-f", "-", stdin=_json(manifest), check=False)
    if not done:  # refused at apply: Kubernetes 1.25 and later
        return
    said = rig.wait_reason("renamed", "ModelNameChanged")
    assert "Change it back" in said["message"]
    assert rig.ask("renamed").is_success


def test_a_change_that_cannot_start_leaves_the_old_replica_serving(rig: Rig, made: Made) -> None:
    manifest = made(rig.simulated("stuck"))
    rig.wait_ready("stuck")
    rig.kube.apply(with_main(manifest, image="registry.invalid/vllm:typo"))
    said = rig.wait_reason("stuck", "Degraded", type_="EngineReady")
    assert "ImagePullFailed" in said["message"]
    assert rig.ask("stuck").is_success


def test_a_predictor_of_ones_own_is_started(rig: Rig, made: Made) -> None:
    # Its address is the cluster's, which the operator on the tests' machine may not reach: what
    # is asked for here is that it runs, not that it was asked.
    made(rig.simulated("own", predictor={"replicas": 1}))

    def runs() -> Any:
        seen = rig.kube.get("deployment", "own-predictor")
        return seen and seen["status"].get("availableReplicas") == 1

    eventually(runs, "the predictor is available", within_s=90, every_s=1)


def _json(manifest: Any) -> str:
    return json.dumps(manifest)
