"""The objects for a current cluster: an HTTPRoute, and the policy that admits LLMServices."""

from __future__ import annotations

from typing import Any

import celpy
import helm_python
import kubernetes_validate
import pytest
from tests.chart.releases import named, of_kind

GATEWAY = {"name": "public", "namespace": "gateways", "sectionName": "https"}


def test_a_route_leads_to_the_queue_service_without_a_time_limit(render: Any) -> None:
    values = {
        "httpRoute": {"enabled": True, "parentRefs": [GATEWAY], "hostnames": ["llm.example.com"]}
    }
    (route,) = of_kind(render({"queue": values}), "HTTPRoute")
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert route["spec"]["parentRefs"] == [GATEWAY]
    (rule,) = route["spec"]["rules"]
    (backend,) = rule["backendRefs"]
    service = named(render(), "Service", backend["name"])
    assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]
    assert rule["timeouts"] == {"request": "0s"}


@pytest.mark.parametrize(("kind", "list_"), [("httpRoute", "parentRefs"), ("ingress", "hosts")])
def test_a_way_in_from_nowhere_is_refused(render: Any, kind: str, list_: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=rf"queue\.{kind}\.{list_}"):
        render({"queue": {kind: {"enabled": True}}})


@pytest.fixture(scope="module")
def policy(render: Any) -> Any:
    objects = render({"operator": {"admissionPolicy": {"enabled": True}}})
    for one in of_kind(objects, "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
        kubernetes_validate.validate(one, "1.37", strict=True)
    (found,) = of_kind(objects, "ValidatingAdmissionPolicy")
    return found


def refusals(policy: Any, pod: dict[str, Any] | None) -> list[str]:
    """Evaluate the policy as the API server does."""
    spec: dict[str, Any] = {"model": {"uri": "hf://a/b"}}
    if pod is not None:
        spec["podTemplate"] = {"spec": pod}
    known: dict[str, Any] = {"object": celpy.json_to_cel({"spec": spec})}
    environment = celpy.Environment()
    made: dict[Any, Any] = {}
    for variable in policy["spec"]["variables"]:
        known["variables"] = celpy.celtypes.MapType(made)
        program = environment.program(environment.compile(variable["expression"]))
        made[celpy.celtypes.StringType(variable["name"])] = program.evaluate(known)
    known["variables"] = celpy.celtypes.MapType(made)
    return [
        rule["message"]
        for rule in policy["spec"]["validations"]
        if not environment.program(environment.compile(rule["expression"])).evaluate(known)
    ]


@pytest.mark.parametrize(
    "pod",
    [
        None,
        {},
        {"nodeSelector": {"a": "b"}},
        {"hostNetwork": False, "volumes": [{"name": "a", "emptyDir": {}}]},
        {"containers": [{"name": "main", "securityContext": {"capabilities": {"drop": ["ALL"]}}}]},
        {"containers": [{"name": "main", "ports": [{"containerPort": 1}]}]},
    ],
)
def test_the_policy_admits_what_the_baseline_standard_does(policy: Any, pod: Any) -> None:
    assert refusals(policy, pod) == []


@pytest.mark.parametrize(
    ("pod", "word"),
    [
        ({"hostNetwork": True}, "network"),
        ({"hostPID": True}, "processes"),
        ({"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}, "hostPath"),
        (
            {"containers": [{"name": "main", "securityContext": {"privileged": True}}]},
            "privileged",
        ),
        (
            {
                "initContainers": [
                    {"name": "x", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}
                ]
            },
            "capabilities",
        ),
        ({"containers": [{"name": "main", "ports": [{"hostPort": 80}]}]}, "port"),
    ],
)
def test_the_policy_refuses_what_reaches_the_node(policy: Any, pod: Any, word: str) -> None:
    (message,) = refusals(policy, pod)
    assert word in message


def test_the_policy_is_off_unless_it_is_asked_for(render: Any) -> None:
    assert of_kind(render(), "ValidatingAdmissionPolicy") == []
