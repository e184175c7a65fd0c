"""The manifests, held to docs/reference/llmservice.md. A real API server takes them all
in tests/cluster; here they are also held to the API's own schema.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lengthwise_operator.children.all import all_children
from lengthwise_operator.children.engine import CHECK_MODEL
from lengthwise_operator.children.manifest import Manifest
from lengthwise_operator.children.vllm import vllm_args
from lengthwise_operator.installation import Apis, Installation, WorkerRedis
from lengthwise_operator.llmservice.rules import MAX_NAME
from lengthwise_operator.llmservice.service import LLMService

if TYPE_CHECKING:
    from tests.operator.conftest import MakeService


def by_kind(found: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    return {(m["kind"], m["metadata"]["name"]): m for m in found}


@pytest.fixture
def make(installation: Installation, apis: Apis, service: MakeService) -> Any:
    """make(**spec) -> children by kind and name."""

    def make(*, with_apis: Apis = apis, **spec: Any) -> Any:
        return by_kind(all_children(service(**spec), installation, with_apis, 1))

    return make


def pod(found: Any) -> Any:
    return found["Deployment", "chat-engine"]["spec"]["template"]["spec"]


def container(found: Any, name: str) -> Any:
    return next(c for c in pod(found)["containers"] if c["name"] == name)


def env(of: Any) -> dict[str, Any]:
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in of["env"]}


def flag(args: list[str], name: str) -> str | None:
    return args[args.index(name) + 1] if name in args else None


def test_a_minimal_service_has_an_engine_its_service_and_its_policy(make: Any) -> None:
    assert set(make()) == {
        ("Deployment", "chat-engine"),
        ("Service", "chat-engine"),
        ("NetworkPolicy", "chat-engine"),
    }


def test_every_child_is_owned_and_labelled(make: Any) -> None:
    found = make(replicas=2, modelCache={}, predictor={"replicas": 1})
    assert len(found) == 7
    for manifest in found.values():
        owner = manifest["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["uid"], owner["controller"]) == (
            "LLMService",
            "uid-chat",
            True,
        )
        assert manifest["metadata"]["namespace"] == "team"
        labels = manifest["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "lengthwise-operator"
        assert labels["lengthwise.dev/service"] == "chat"


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


def test_worker_and_predictor_meet_the_restricted_profile(make: Any) -> None:
    found = make(predictor={"replicas": 1})
    predictor = found["Deployment", "chat-predictor"]["spec"]["template"]["spec"]["containers"][0]
    for ours in (container(found, "worker"), predictor):
        context = ours["securityContext"]
        assert context["runAsNonRoot"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
    assert pod(found)["automountServiceAccountToken"] is False


def test_a_hub_token_comes_from_the_named_secret(make: Any) -> None:
    found = make(hfTokenSecretRef={"name": "hub"})
    want = {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert env(container(found, "main"))["HF_TOKEN"] == want


def test_a_users_variable_overrides_the_operators(make: Any) -> None:
    found = make(engine={"env": [{"name": "VLLM_NO_USAGE_STATS", "value": "0"}]})
    assert env(container(found, "main"))["VLLM_NO_USAGE_STATS"] == "0"


def test_a_claim_is_created_or_an_existing_one_is_used(make: Any) -> None:
    managed = make(modelCache={"size": "9Gi", "storageClassName": "fast"})
    claim = managed["PersistentVolumeClaim", "chat-model-cache"]["spec"]
    assert claim["resources"]["requests"]["storage"] == "9Gi"
    assert claim["storageClassName"] == "fast"
    existing = make(modelCache={"existingClaim": "shared"})
    assert ("PersistentVolumeClaim", "chat-model-cache") not in existing
    cache = next(v for v in pod(existing)["volumes"] if v["name"] == "cache")
    assert cache["persistentVolumeClaim"]["claimName"] == "shared"


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({"replicas": 1}, False),
        ({"replicas": 2}, True),
        ({"autoscaling": {"maxReplicas": 3}}, True),
        ({"autoscaling": {"maxReplicas": 1}}, False),
    ],
    ids=["one", "two", "up-to-three", "up-to-one"],
)
def test_there_is_a_disruption_budget_if_there_can_be_two_replicas(
    make: Any, spec: dict[str, Any], want: bool
) -> None:
    assert (("PodDisruptionBudget", "chat-engine") in make(**spec)) == want


def test_an_old_api_server_gets_the_old_version_of_the_budget(make: Any) -> None:
    old = Apis(pdb_version="policy/v1beta1", pod_monitors=False)
    found = make(replicas=2, with_apis=old)
    assert found["PodDisruptionBudget", "chat-engine"]["apiVersion"] == "policy/v1beta1"


def test_a_pod_monitor_is_created_only_where_the_api_exists(make: Any) -> None:
    assert ("PodMonitor", "chat-engine") not in make()
    having = Apis(pdb_version="policy/v1", pod_monitors=True)
    monitor = make(with_apis=having)["PodMonitor", "chat-engine"]
    ports = [e["port"] for e in monitor["spec"]["podMetricsEndpoints"]]
    assert ports == ["http", "worker-metrics"]


def test_only_the_monitoring_namespace_reaches_the_engine(
    make: Any, installation: Installation, apis: Apis, service: MakeService
) -> None:
    assert make()["NetworkPolicy", "chat-engine"]["spec"]["ingress"] == []
    open_to = replace(installation, metrics_namespace="monitoring")
    found = by_kind(all_children(service(), open_to, apis, 1))
    rule = found["NetworkPolicy", "chat-engine"]["spec"]["ingress"][0]
    assert rule["from"][0]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "monitoring"
    }


def predictor_of(made: LLMService, installation: Installation) -> tuple[int, str | None]:
    return made.own_predictor_replicas(installation), made.predictor_url(installation)


@pytest.mark.parametrize(
    ("predictor", "shared", "want"),
    [
        ({}, "http://predictor.lw", (0, "http://predictor.lw")),
        ({}, "", (1, "http://chat-predictor.team.svc:8081")),
        ({"replicas": 2}, "http://predictor.lw", (2, "http://chat-predictor.team.svc:8081")),
        ({"replicas": 0}, "http://predictor.lw", (0, None)),
        ({"url": "http://mine"}, "http://predictor.lw", (0, "http://mine")),
        (
            {"model": "pvc://c/f"},
            "http://predictor.lw",
            (1, "http://chat-predictor.team.svc:8081"),
        ),
    ],
    ids=["shared", "none-shared", "own", "off", "external", "own-model"],
)
def test_which_predictor_serves(
    service: MakeService,
    installation: Installation,
    predictor: dict[str, Any],
    shared: str,
    want: tuple[int, str | None],
) -> None:
    made = service(predictor=predictor)
    assert predictor_of(made, replace(installation, predictor_url=shared)) == want


def test_a_users_model_is_mounted_from_its_claim(make: Any) -> None:
    found = make(predictor={"model": "pvc://lengths/v3"})
    spec = found["Deployment", "chat-predictor"]["spec"]["template"]["spec"]
    assert env(spec["containers"][0])["LENGTHWISE_PREDICTOR_MODEL_DIR"] == "/mnt/model/v3"
    assert env(spec["containers"][0])["LENGTHWISE_PREDICTOR_RELOAD_EVERY_S"] == "5"


def test_the_reload_interval_becomes_seconds(make: Any) -> None:
    found = make(predictor={"model": "pvc://lengths/v3", "reloadEvery": "1m30s"})
    spec = found["Deployment", "chat-predictor"]["spec"]["template"]["spec"]
    assert env(spec["containers"][0])["LENGTHWISE_PREDICTOR_RELOAD_EVERY_S"] == "90"


def test_children_of_the_longest_name_have_valid_dns_names(make: Any) -> None:
    found = make(name="n" * MAX_NAME, modelCache={}, predictor={"replicas": 1})
    assert all(len(name) <= 63 for _, name in found)


def test_the_same_service_gives_the_same_manifests(make: Any) -> None:
    assert make(parallelism={"tensor": 2}) == make(parallelism={"tensor": 2})


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
