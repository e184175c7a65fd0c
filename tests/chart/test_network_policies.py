"""Which pods may connect to which, by the NetworkPolicies of the chart and of the operator.

The test cluster does not enforce them, so this module evaluates the rules: a connection is allowed
if no policy selects the target, or if one that does has a rule for the source and the port.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from lengthwise_operator.children.all import all_children
from lengthwise_operator.installation import Apis
from lengthwise_operator.llmservice.service import LLMService
from lengthwise_operator.llmservice.spec import LLMServiceSpec
from lengthwise_operator.settings import OperatorSettings

Object = dict[str, Any]

RELEASE, TEAM, MONITORING = "llm", "research", "monitoring"


@dataclass(frozen=True, kw_only=True)
class Pod:
    """The part of a pod that policies evaluate."""

    namespace: str
    labels: Object
    ports: dict[str, int]


def selects(selector: Object, labels: Object) -> bool:
    assert set(selector) <= {"matchLabels"}, "this test supports only matchLabels"
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
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        for rule in policy["spec"].get("ingress", []):
            ports = [target.ports.get(p["port"], p["port"]) for p in rule.get("ports", [])]
            peers = rule.get("from", [])
            if (not ports or port in ports) and (
                not peers or any(from_peer(p, source, target.namespace) for p in peers)
            ):
                return True
    return not selecting


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
        service = LLMService(
            name="chat",
            namespace=TEAM,
            uid="u",
            generation=1,
            created=datetime(2026, 1, 1, tzinfo=UTC),
            deleted=None,
            spec=LLMServiceSpec.model_validate({"model": {"uri": "hf://org/model"}}),
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
        self.pods["engine"] = pod_of(next(m for m in made if m["kind"] == "Deployment"), TEAM)
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
            if name != target and allowed(self.policies, source, self.pods[target], port)
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
    assert watched.who_reaches("valkey", 6379) == {"queue", "engine", "other engine"}


# The operator was missing once: where policies are enforced, no LLMService would become Ready.
def test_only_the_queue_service_and_the_operator_reach_the_predictor(
    closed: Installed,
) -> None:
    assert closed.who_reaches("predictor", 8081) == {"queue", "operator"}


def test_only_prometheus_reaches_the_operator(watched: Installed) -> None:
    assert watched.who_reaches("operator", 8083) == set()
    assert watched.who_reaches("operator", 8084) == {"prometheus"}


def test_every_pod_reaches_the_queue_service_on_its_one_port(closed: Installed) -> None:
    assert closed.who_reaches("queue", 8080) == set(closed.pods) - {"queue"}
    assert closed.who_reaches("queue", 22) == set()


def test_clients_from_limits_who_reaches_the_queue_service(render: Any) -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": TEAM}}}]
    found = Installed(render({"networkPolicy": {"clientsFrom": peers}}, namespace=RELEASE))
    assert found.who_reaches("queue", 8080) == {
        *("operator", "helm test", "engine", "unrelated elsewhere")
    }
