"""The engine's Deployment: vLLM, the worker beside it, and how both end."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.operator.manifests import by_kind, container, env, flag, pod

from lengthwise_operator.children.all import all_children
from lengthwise_operator.children.engine import CHECK_MODEL
from lengthwise_operator.children.vllm import vllm_args
from lengthwise_operator.installation import Apis, Installation, WorkerRedis

if TYPE_CHECKING:
    from tests.operator.conftest import MakeService


def test_the_spec_becomes_arguments_of_vllm(service: MakeService) -> None:
    made = service(
        model={"uri": "hf://org/m", "name": "m-chat", "revision": "v2", "maxModelLen": 4096},
        engine={"maxNumSeqs": 32, "args": ["--enforce-eager"]},
        drain={"shutdownTimeoutSeconds": 20},
    )
    args = vllm_args(made)
    assert args[0] == "org/m"
    assert args[-1] == "--enforce-eager"
    want = {
        "--served-model-name": "m-chat",
        "--scheduling-policy": "priority",
        "--max-num-seqs": "32",
        "--max-model-len": "4096",
        "--revision": "v2",
        "--shutdown-timeout": "20",
        "--port": "8000",
    }
    assert {name: flag(args, name) for name in want} == want
    assert "--tensor-parallel-size" not in args


@pytest.mark.parametrize(
    ("image", "knows"),
    [
        ("vllm/vllm-openai:v0.17.1", False),
        ("vllm/vllm-openai:v0.18.0", True),
        ("registry:5000/vllm:cpu", True),
        ("vllm@sha256:0123", True),
        ("vllm/vllm-openai:v1.0", True),
    ],
)
def test_an_old_vllm_does_not_get_a_flag_that_it_lacks(
    service: MakeService, image: str, knows: bool
) -> None:
    assert ("--shutdown-timeout" in vllm_args(service(engine={"image": image}))) == knows


def test_a_users_shutdown_timeout_takes_precedence(service: MakeService) -> None:
    args = vllm_args(service(engine={"args": ["--shutdown_timeout=7"]}))
    assert "--shutdown-timeout" not in args


@pytest.mark.parametrize(
    ("uri", "want"),
    [
        ("hf://org/m", "org/m"),
        ("path:///models/m/", "/models/m"),
        ("pvc://claim/a/b", "/mnt/model/a/b"),
        ("pvc://claim", "/mnt/model"),
        ("oci://registry.example.com/models/m:1", "/mnt/model"),
    ],
)
def test_every_kind_of_uri_becomes_the_model_argument(
    service: MakeService, uri: str, want: str
) -> None:
    assert vllm_args(service(model={"uri": uri}))[0] == want


def test_a_model_on_a_claim_is_mounted_read_only_and_checked_first(make: Any) -> None:
    found = make(model={"uri": "pvc://weights/m"})
    volumes = {v["name"]: v for v in pod(found)["volumes"]}
    assert volumes["model"]["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}
    mounts = {m["name"]: m for m in container(found, "main")["volumeMounts"]}
    assert mounts["model"]["readOnly"]
    assert pod(found)["initContainers"][0]["command"][-2:] == ["/mnt/model/m", "pvc://weights/m"]


def test_a_model_in_an_image_is_an_image_volume(make: Any) -> None:
    found = make(model={"uri": "oci://registry.example.com/models/m:1"})
    volume = next(v for v in pod(found)["volumes"] if v["name"] == "model")
    want = {"reference": "registry.example.com/models/m:1", "pullPolicy": "IfNotPresent"}
    assert volume["image"] == want
    for one in (container(found, "main"), pod(found)["initContainers"][0]):
        assert {"name": "model", "mountPath": "/mnt/model", "readOnly": True} in one["volumeMounts"]


def test_a_model_from_the_hub_is_not_checked_before_it_is_downloaded(make: Any) -> None:
    assert "initContainers" not in pod(make())


def test_tensor_parallelism_sets_the_argument_the_gpus_and_the_shared_memory(make: Any) -> None:
    found = make(parallelism={"tensor": 4})
    main = container(found, "main")
    assert flag(main["args"], "--tensor-parallel-size") == "4"
    assert main["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    shm = next(v for v in pod(found)["volumes"] if v["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    mounts = {m["name"]: m["mountPath"] for m in main["volumeMounts"]}
    assert mounts["shm"] == "/dev/shm"  # noqa: S108 - the container's


@pytest.mark.parametrize(
    "spec",
    [
        {"resources": {"limits": {"amd.com/gpu": 4}}},
        {"resources": {"requests": {"google.com/tpu": 4}}},
        {"resources": {"limits": {"nvidia.com/mig-3g.20gb": 4}}},
        {"podTemplate": {"spec": {"resourceClaims": [{"name": "gpus"}]}}},
    ],
)
def test_tensor_parallelism_requests_no_nvidia_gpu_where_devices_are_named(
    make: Any, spec: dict[str, Any]
) -> None:
    resources = container(make(parallelism={"tensor": 4}, **spec), "main")["resources"]
    assert "nvidia.com/gpu" not in resources.get("limits", {})


@pytest.mark.parametrize(
    "args",
    [
        ["--data-parallel-size", "4"],
        ["--enforce-eager", "--data_parallel_size=4"],
        ["-dp", "4"],
    ],
)
def test_the_worker_fills_every_engine_of_a_data_parallel_replica(
    make: Any, args: list[str]
) -> None:
    worker = container(make(engine={"maxNumSeqs": 48, "args": args}), "worker")
    assert env(worker)["LENGTHWISE_WORKER_SLOTS"] == "192"


def test_the_model_check_sees_the_volume_that_the_template_mounts_for_a_path(make: Any) -> None:
    mounts = [
        {"name": "nfs", "mountPath": "/models"},
        {"name": "other", "mountPath": "/modelsx"},
        {"name": "sub", "mountPath": "/models/m"},
    ]
    template = {"spec": {"containers": [{"name": "main", "volumeMounts": mounts}]}}
    found = make(model={"uri": "path:///models/m"}, podTemplate=template)
    (check,) = pod(found)["initContainers"]
    assert {m["name"] for m in check["volumeMounts"]} == {"nfs", "sub"}


def test_no_pod_gets_variables_from_the_names_of_services(make: Any) -> None:
    found = make(predictor={"replicas": 1})
    for name in ("chat-engine", "chat-predictor"):
        assert found["Deployment", name]["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_an_engine_without_limits_gets_no_gpu(make: Any) -> None:
    assert container(make(), "main")["resources"] == {}


def test_shared_memory_of_zero_mounts_none(make: Any) -> None:
    assert all(v["name"] != "shm" for v in pod(make(sharedMemorySize="0"))["volumes"])


def test_the_worker_gets_the_redis_url_by_reference_to_the_secret(make: Any) -> None:
    worker = container(make(), "worker")
    want = {"secretKeyRef": {"name": "lw-redis", "key": "url"}}
    assert env(worker)["LENGTHWISE_WORKER_REDIS_URL"] == want


def test_the_worker_has_as_many_slots_as_the_engine_has_sequences(make: Any) -> None:
    engine = {"maxNumSeqs": 48}
    assert env(container(make(engine=engine), "worker"))["LENGTHWISE_WORKER_SLOTS"] == "48"
    capped = make(engine=engine, queue={"maxInFlightPerReplica": 12})
    assert env(container(capped, "worker"))["LENGTHWISE_WORKER_SLOTS"] == "12"


def test_the_worker_returns_its_jobs_before_the_engine_is_killed(make: Any) -> None:
    found = make(drain={"preStopSeconds": 20, "shutdownTimeoutSeconds": 30})
    grace = float(env(container(found, "worker"))["LENGTHWISE_WORKER_SHUTDOWN_GRACE_S"])
    main = container(found, "main")
    assert 0 < grace < 20 + 30
    assert pod(found)["terminationGracePeriodSeconds"] > 20 + 30
    assert flag(main["args"], "--shutdown-timeout") == "30"


@pytest.mark.slow
def test_the_engine_waits_for_the_worker_to_end(make: Any, tmp_path: Path) -> None:
    found = make(drain={"preStopSeconds": 30})
    command = container(found, "main")["lifecycle"]["preStop"]["exec"]["command"]
    worker = env(container(found, "worker"))
    assert worker["LENGTHWISE_WORKER_ENDED_FILE"] in command[-1]
    # Run the hook with a path that the test can create: it ends as soon as the file exists.
    here = tmp_path / "ended"
    command[-1] = command[-1].replace(worker["LENGTHWISE_WORKER_ENDED_FILE"], str(here))
    hook = subprocess.Popen(command)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            hook.wait(timeout=0.5)
        here.touch()
        assert hook.wait(timeout=10) == 0
    finally:
        hook.kill()


def test_a_hub_token_comes_from_the_named_secret(make: Any) -> None:
    found = make(hfTokenSecretRef={"name": "hub"})
    want = {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert env(container(found, "main"))["HF_TOKEN"] == want


def test_a_users_variable_overrides_the_operators(make: Any) -> None:
    found = make(engine={"env": [{"name": "VLLM_NO_USAGE_STATS", "value": "0"}]})
    assert env(container(found, "main"))["VLLM_NO_USAGE_STATS"] == "0"


@pytest.mark.parametrize(
    ("files", "code", "output"),
    [
        (["m/config.json"], 0, ""),
        (["m/params.json"], 0, ""),
        (["m/readme.md"], 1, "The folder holds: readme.md"),
        (["other/config.json"], 1, "There is no such folder"),
    ],
    ids=["config", "params", "no-model", "no-folder"],
)
def test_the_model_check_reports_what_is_there_instead(
    tmp_path: Path, files: list[str], code: int, output: str
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    done = subprocess.run(
        ["/bin/sh", "-c", CHECK_MODEL, "check-model", str(tmp_path / "m"), "pvc://c/m"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert output in done.stdout


def test_the_secrets_of_redis_are_mounted_in_the_worker_and_not_in_the_engine(
    installation: Installation, apis: Apis, service: MakeService
) -> None:
    redis = WorkerRedis(
        secret_name="lw-redis", url_key="url", password_key="password", tls_secret_name="certs"
    )
    secured = replace(installation, redis=replace(redis, tls_ca_key="ca.crt"))
    found = by_kind(all_children(service(), secured, apis, 1))
    mounted = {m["name"] for m in container(found, "worker")["volumeMounts"]}
    assert {"redis", "redis-tls"} <= mounted
    assert (
        not mounted
        & {"redis", "redis-tls"}
        & {m["name"] for m in container(found, "main")["volumeMounts"]}
    )
    assert {v["name"] for v in pod(found)["volumes"] if "secret" in v} == {"redis", "redis-tls"}
