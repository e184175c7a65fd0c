"""The rights of the operator in the cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.chart.releases import NAMESPACED, Object, each_set, named, of_kind, pods


@pytest.mark.slow
@each_set
def test_only_the_operator_gets_a_service_account_token(render: Any, values: Object) -> None:
    for pod in pods(render(values)):
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] != "operator":
            assert pod["spec"]["automountServiceAccountToken"] is False


@each_set
def test_the_operator_has_no_wildcard_and_no_right_on_secrets_or_commands(
    render: Any, values: Object
) -> None:
    rules = [r for o in of_kind(render(values), "ClusterRole", "Role") for r in o["rules"]]
    for rule in rules:
        assert not any("*" in part for part in [*rule["apiGroups"], *rule["resources"]])
        assert not {"*", "escalate", "bind", "impersonate"} & set(rule["verbs"])
        assert not {"secrets", "pods/exec", "pods/attach", "configmaps", "nodes"} & set(
            rule["resources"]
        )


@pytest.mark.slow
def test_the_reviewed_table_of_rights_is_the_clusterrole(render: Any, chart_folder: Path) -> None:
    page = (chart_folder.parents[1] / "docs" / "reference" / "operator.md").read_text()
    table = page.partition("## Rights")[2].partition("\n## ")[0]
    reviewed = {
        resource: set(verbs.split())
        for resource, verbs in re.findall(r"^\| ([a-z/]+) \| ([a-z ]+) \| .+ \|$", table, re.M)
        if resource != "resource"
    }
    role = named(render(), "ClusterRole", "llm-lw-lengthwise-operator")
    granted = {resource: set(r["verbs"]) for r in role["rules"] for resource in r["resources"]}
    assert granted == reviewed


def test_a_namespaced_operator_has_no_right_outside_its_namespaces(render: Any) -> None:
    objects = render(NAMESPACED)
    assert of_kind(objects, "ClusterRole", "ClusterRoleBinding") == []
    rights = [r for r in of_kind(objects, "Role") if r["metadata"]["name"].endswith("-operator")]
    assert [r["metadata"]["namespace"] for r in rights] == ["llm", "research"]
    arguments = named(objects, "Deployment", "lw-lengthwise-operator")["spec"]["template"]["spec"][
        "containers"
    ][0]["args"]
    assert [a for a in arguments if "namespace" in a] == ["--namespace=llm", "--namespace=research"]


def test_each_served_namespace_has_a_role_for_those_who_view_and_one_for_those_who_edit(
    render: Any,
) -> None:
    roles = of_kind(render(NAMESPACED), "Role")
    for namespace in ("llm", "research"):
        found = {
            r["metadata"]["name"]: {
                (x, v) for rule in r["rules"] for x in rule["resources"] for v in rule["verbs"]
            }
            for r in roles
            if r["metadata"]["namespace"] == namespace
        }
        assert ("llmservices", "get") in found["lw-lengthwise-view"]
        assert ("llmservices", "create") not in found["lw-lengthwise-view"]
        assert {("llmservices", "get"), ("llmservices", "create")} <= found["lw-lengthwise-edit"]


def test_a_namespaced_operator_may_list_only_the_queue_service_elsewhere(render: Any) -> None:
    objects = render({"operator": {"watchNamespaces": ["research"]}})
    [role] = [r for r in of_kind(objects, "Role") if r["metadata"].get("namespace") != "research"]
    want = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]}
    assert role["rules"] == [{**want, "resourceNames": ["lw-lengthwise-queue"]}]
    container = named(objects, "Deployment", "lw-lengthwise-operator")["spec"]["template"]["spec"][
        "containers"
    ][0]
    env = {e["name"]: e.get("value") for e in container["env"]}
    assert env["LENGTHWISE_OPERATOR_QUEUE_DEPLOYMENT"] == "llm/lw-lengthwise-queue"
