"""The manifests, held to docs/reference/llmservice.md. A real API server takes them all
in tests/cluster; here they are also held to the API's own schema.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.operator.manifests import by_kind, container, env, pod

from lengthwise_operator.children.all import all_children
from lengthwise_operator.installation import Apis, Installation
from lengthwise_operator.llmservice.rules import MAX_NAME
from lengthwise_operator.llmservice.service import LLMService

if TYPE_CHECKING:
    from tests.operator.conftest import MakeService


def test_a_minimal_service_has_an_engine_its_service_and_its_policy(make: Any) -> None:
    assert set(make()) == {
        ("Deployment", "chat-engine"),
        ("Service", "chat-engine"),
        ("NetworkPolicy", "chat-engine"),
    }


def test_every_child_is_owned_and_labelled(make: Any) -> None:
    found = make(replicas=2, modelCache={}, predictor={"replicas": 1})
    assert len(found) == 8
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


#: (Deployment, container) -> the paths that answer its probes.
SERVED = {
    ("chat-engine", "main"): {"/health"},  # vLLM's
    ("chat-engine", "worker"): {"/healthz"},
    ("chat-predictor", "main"): {"/healthz", "/readyz"},
}


def test_every_probe_calls_a_port_and_a_path_that_its_container_serves(make: Any) -> None:
    probed = set()
    for (kind, name), manifest in make(predictor={"replicas": 1}).items():
        containers = manifest["spec"]["template"]["spec"]["containers"] if "Deploy" in kind else []
        for each in containers:
            calls = [each[key]["httpGet"] for key in each if key.endswith("Probe")]
            assert {call["port"] for call in calls} <= {port["name"] for port in each["ports"]}
            assert {call["path"] for call in calls} == SERVED[name, each["name"]]
            probed.add((name, each["name"]))
    assert probed == set(SERVED)


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


def test_a_pod_that_is_not_ready_blocks_no_drain_of_its_node_where_the_server_knows_how(
    make: Any,
) -> None:
    key = ("PodDisruptionBudget", "chat-engine")
    assert "unhealthyPodEvictionPolicy" not in make(replicas=2)[key]["spec"]
    new = Apis(pdb_version="policy/v1", pdb_unhealthy=True, pod_monitors=False)
    budget = make(replicas=2, with_apis=new)[key]["spec"]
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_engines_and_predictors_are_spread_over_nodes_and_zones(make: Any) -> None:
    found = make(predictor={"replicas": 2})
    for name in ("chat-engine", "chat-predictor"):
        template = found["Deployment", name]["spec"]["template"]
        spread = template["spec"]["topologySpreadConstraints"]
        assert len({one["topologyKey"] for one in spread}) == 2
        for one in spread:
            assert one["whenUnsatisfiable"] == "ScheduleAnyway"
            chosen = one["labelSelector"]["matchLabels"]
            assert chosen.items() <= template["metadata"]["labels"].items()


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
