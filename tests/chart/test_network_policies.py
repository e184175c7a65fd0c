"""Which pods may connect to which, by the NetworkPolicies of the chart and of the operator.

The test cluster does not enforce them, so this module evaluates the rules: a connection is allowed
if no policy selects the target, or if one that does has a rule for the source and the port.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from lengthwise_operator.children.all import all_children
from lengthwise_operator.installation import Apis
from lengthwise_operator.llmservice.service import LLMService
from lengthwise_operator.llmservice.spec import LLMServiceSpec
from lengthwise_operator.settings import OperatorSettings

Object = dict[str, Any]

#: The address of some pod, and of the metadata service of most clouds.
POD_ADDRESS, METADATA = "10.1.2.3", "169.254.169.254"

RELEASE, TEAM, MONITORING = "llm", "research", "monitoring"


@dataclass(frozen=True, kw_only=True)
class Pod:
    """The part of a pod that policies evaluate."""

    namespace: str
    labels: Object
    ports: dict[str, int]


def selects(selector: Object, labels: Object) -> bool:
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In", "this test supports only In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def from_peer(peer: Object, source: Pod, policy_namespace: str) -> bool:
    if "namespaceSelector" in peer:
        name = {"kubernetes.io/metadata.name": source.namespace}
        if not selects(peer["namespaceSelector"], name):
            return False
    elif source.namespace != policy_namespace:
        return False
    return selects(peer.get("podSelector", {}), source.labels)


def allowed(policies: list[Object], source: Pod, target: Pod, port: int) -> bool:
    """Whether the policies allow `source` to connect to `port` of `target`."""
    selecting = [
        p
        for p in policies
        if p["metadata"]["namespace"] == target.namespace
        and selects(p["spec"]["podSelector"], target.labels)
    ]
    for policy in selecting:
        assert "Ingress" in policy["spec"]["policyTypes"]
        for rule in policy["spec"].get("ingress", []):
            ports = [target.ports.get(p["port"], p["port"]) for p in rule.get("ports", [])]
            peers = rule.get("from", [])
            if (not ports or port in ports) and (
                not peers or any(from_peer(p, source, target.namespace) for p in peers)
            ):
                return True
    return not selecting


def leaves(policies: list[Object], source: Pod, address: str) -> bool:
    """Whether the policies allow `source` to connect to an address."""
    selecting = [
        p
        for p in policies
        if p["metadata"]["namespace"] == source.namespace
        and selects(p["spec"]["podSelector"], source.labels)
        and "Egress" in p["spec"]["policyTypes"]
    ]
    blocks = [
        peer["ipBlock"] for p in selecting for rule in p["spec"]["egress"] for peer in rule["to"]
    ]
    target = ip_address(address)
    return not selecting or any(
        target in ip_network(block["cidr"])
        and not any(target in ip_network(part) for part in block["except"])
        for block in blocks
    )


def pod_of(workload: Object, namespace: str) -> Pod:
    template = workload["spec"]["template"]
    ports = {
        p["name"]: p["containerPort"]
        for c in template["spec"]["containers"]
        for p in c.get("ports", [])
    }
    return Pod(namespace=namespace, labels=template["metadata"]["labels"], ports=ports)


class Installed:
    """A release in one namespace, an LLMService in another, and unrelated pods in both."""

    def __init__(self, rendered: list[Object]) -> None:
        workloads = {
            o["metadata"]["labels"]["app.kubernetes.io/component"]: o
            for o in rendered
            if o["kind"] in ("Deployment", "StatefulSet")
        }
        settings = {
            e["name"].removeprefix("LENGTHWISE_OPERATOR_").lower(): e.get("value", "")
            for e in workloads["operator"]["spec"]["template"]["spec"]["containers"][0]["env"]
        }
        assert settings["queue_deployment"].startswith(f"{RELEASE}/")
        service = LLMService(
            name="chat",
            namespace=TEAM,
            uid="u",
            generation=1,
            created=datetime(2026, 1, 1, tzinfo=UTC),
            deleted=None,
            spec=LLMServiceSpec.model_validate(
                {"model": {"uri": "hf://org/model"}, "predictor": {"replicas": 1}}
            ),
        )
        apis = Apis(pdb_version="policy/v1", pod_monitors=False)
        made = all_children(
            service, OperatorSettings.model_validate(settings).installation(), apis, 1
        )
        self.policies = [
            {**o, "metadata": {**o["metadata"], "namespace": RELEASE}}
            for o in rendered
            if o["kind"] == "NetworkPolicy"
        ] + [m for m in made if m["kind"] == "NetworkPolicy"]
        self.pods = {name: pod_of(o, RELEASE) for name, o in workloads.items()}
        (helm_test,) = [o for o in rendered if o["kind"] == "Pod"]
        self.pods["helm test"] = Pod(
            namespace=RELEASE, labels=helm_test["metadata"]["labels"], ports={}
        )
        own = {m["metadata"]["name"]: m for m in made if m["kind"] == "Deployment"}
        self.pods["engine"] = pod_of(own["chat-engine"], TEAM)
        self.pods["own predictor"] = pod_of(own["chat-predictor"], TEAM)
        unrelated = Pod(namespace=RELEASE, labels={"app": "x"}, ports={})
        self.pods |= {
            "unrelated": unrelated,
            "unrelated elsewhere": replace(unrelated, namespace=TEAM),
            "other engine": replace(self.pods["engine"], namespace="support"),
            "prometheus": Pod(
                namespace=MONITORING,
                labels={"app.kubernetes.io/name": "prometheus"},
                ports={},
            ),
        }

    def who_reaches(self, target: str, port: int) -> set[str]:
        return {
            name
            for name, source in self.pods.items()
            if name != target
            and allowed(self.policies, source, self.pods[target], port)
            and leaves(self.policies, source, POD_ADDRESS)
        }


@pytest.fixture
def closed(render: Any) -> Installed:
    """With the default values."""
    return Installed(render(namespace=RELEASE))


@pytest.fixture
def watched(render: Any) -> Installed:
    """With the default values and a Prometheus that may read the metrics."""
    name = {"kubernetes.io/metadata.name": MONITORING}
    peers = [{"namespaceSelector": {"matchLabels": name}}]
    values = {
        "networkPolicy": {"metricsFrom": peers},
        "redis": {"secretNamespaces": [TEAM]},
        "monitoring": {"namespace": MONITORING, "serviceMonitor": {"enabled": True}},
    }
    return Installed(render(values, namespace=RELEASE))


@pytest.mark.parametrize("port", [8000, 8082, 22], ids=["vllm", "worker", "any other"])
def test_no_other_pod_reaches_an_engine(closed: Installed, port: int) -> None:
    """The worker is in the same pod, to which policies do not apply."""
    assert closed.who_reaches("engine", port) == set()


def test_only_prometheus_reads_the_metrics_of_an_engine(watched: Installed) -> None:
    assert watched.who_reaches("engine", 8000) == {"prometheus"}
    assert watched.who_reaches("engine", 8082) == {"prometheus"}
    assert watched.who_reaches("engine", 22) == set()


def test_only_the_queue_service_and_the_workers_reach_valkey(watched: Installed) -> None:
    assert watched.who_reaches("valkey", 6379) == {"queue", "engine"}


def test_labels_in_a_namespace_without_the_password_do_not_open_valkey(closed: Installed) -> None:
    assert closed.who_reaches("valkey", 6379) == {"queue"}


def test_only_the_installation_reaches_a_predictor_of_one_service(watched: Installed) -> None:
    found = watched.who_reaches("own predictor", 8081)
    assert {"queue", "operator", "prometheus"} <= found
    assert not found & {"engine", "other engine", "unrelated", "unrelated elsewhere"}


@pytest.mark.parametrize("name", ["queue", "engine", "predictor", "own predictor", "valkey"])
def test_no_pod_reaches_the_metadata_service_of_the_cloud(watched: Installed, name: str) -> None:
    assert not leaves(watched.policies, watched.pods[name], METADATA)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("queue", True),
        ("engine", True),
        ("predictor", False),
        ("own predictor", False),
        ("valkey", False),
    ],
)
def test_only_pods_that_call_others_leave_their_pod(
    watched: Installed, name: str, want: bool
) -> None:
    assert leaves(watched.policies, watched.pods[name], POD_ADDRESS) == want


# The operator was missing once: where policies are enforced, no LLMService would become Ready.
def test_only_the_queue_service_and_the_operator_reach_the_predictor(
    closed: Installed,
) -> None:
    assert closed.who_reaches("predictor", 8081) == {"queue", "operator"}


def test_only_prometheus_reaches_the_operator(watched: Installed) -> None:
    assert watched.who_reaches("operator", 8083) == set()
    assert watched.who_reaches("operator", 8084) == {"prometheus"}


def test_every_pod_reaches_the_queue_service_on_its_one_port(closed: Installed) -> None:
    silent = {"predictor", "own predictor", "valkey"}
    assert closed.who_reaches("queue", 8080) == set(closed.pods) - {"queue", *silent}
    assert closed.who_reaches("queue", 22) == set()


def test_clients_from_limits_who_reaches_the_queue_service(render: Any) -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": TEAM}}}]
    found = Installed(render({"networkPolicy": {"clientsFrom": peers}}, namespace=RELEASE))
    assert found.who_reaches("queue", 8080) == {
        *("operator", "helm test", "engine", "unrelated elsewhere")
    }
