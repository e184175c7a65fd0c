"""The objects of the chart are valid, restricted, and use settings that the programs have."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.chart.releases import EVERYTHING, Object, each_set, of_kind, pods

#: The oldest schemas that the package ships, and the newest.
VERSIONS = ["1.25", "1.37"]

ROOT = Path(__file__).parents[2]


def drop_field_paths(document: Any) -> None:
    """Do what the chart does for a server before 1.28; the rendering here has no older server."""
    for part in document.values() if isinstance(document, dict) else document:
        if isinstance(part, dict | list):
            drop_field_paths(part)
    for rule in document.get("x-kubernetes-validations", ()) if isinstance(document, dict) else ():
        rule.pop("fieldPath", None)
        rule.pop("reason", None)


@pytest.mark.slow
@each_set
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_the_schema_of_kubernetes(
    render: Any, values: Object, version: str
) -> None:
    for document in render(values):
        if document["apiVersion"].startswith("monitoring.coreos.com/"):
            continue  # not Kubernetes' own; see test_monitors_name_ports_that_exist
        if version == "1.25" and document["kind"] == "CustomResourceDefinition":
            drop_field_paths(document)
        kubernetes_validate.validate(document, version, strict=True)


@each_set
def test_every_object_has_the_labels_of_the_release(render: Any, values: Object) -> None:
    for document in render({**values, "extraObjects": []}):
        labels = document["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "lengthwise"
        assert labels["app.kubernetes.io/instance"] == "lw"


@pytest.mark.parametrize("name", ["lw", "lengthwise", "a" * 53])
def test_names_fit_for_every_name_of_the_release(render: Any, name: str) -> None:
    longest = max(len(o["metadata"]["name"]) for o in render(EVERYTHING, name=name))
    assert longest <= 63


@each_set
def test_every_service_selects_the_pods_of_one_workload(render: Any, values: Object) -> None:
    objects = render(values)
    for service in of_kind(objects, "Service"):
        want = service["spec"]["selector"].items()
        chosen = [p for p in pods(objects) if want <= p["metadata"]["labels"].items()]
        assert len(chosen) == 1
        ports = {p["name"] for c in chosen[0]["spec"]["containers"] for p in c["ports"]}
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= ports


@each_set
def test_no_pod_gets_variables_from_the_names_of_services(render: Any, values: Object) -> None:
    for pod in pods(render(values)):
        assert pod["spec"]["enableServiceLinks"] is False


@each_set
def test_every_pod_meets_the_restricted_profile(render: Any, values: Object) -> None:
    for pod in pods(render(values)):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "hostPort" not in str(container["ports"])
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod["spec"].keys()
        assert {v for volume in pod["spec"]["volumes"] for v in volume} <= {
            *("name", "emptyDir", "configMap", "secret", "persistentVolumeClaim")
        }


def test_only_fix_permissions_runs_a_container_as_root(render: Any) -> None:
    """`fixPermissions` is for hostPath volumes; no other pod may have an init container."""
    assert not any("initContainers" in pod["spec"] for pod in pods(render()))
    with_init = [p for p in pods(render(EVERYTHING)) if "initContainers" in p["spec"]]
    assert [p["metadata"]["labels"]["app.kubernetes.io/component"] for p in with_init] == ["valkey"]
    assert with_init[0]["spec"]["initContainers"][0]["securityContext"]["capabilities"] == {
        "drop": ["ALL"],
        "add": ["CHOWN"],
    }


def test_pods_run_as_the_user_of_their_images(render: Any, chart_folder: Path) -> None:
    root = chart_folder.parents[1]
    files = [root / f / "Dockerfile" for f in ("operator", "queue_service", "predictor_service")]
    assert {re.search(r"^USER (.*)$", f.read_text(), re.MULTILINE)[1] for f in files} == {  # type: ignore[index]
        "10001:10001"
    }
    contexts = [p["spec"]["securityContext"] for p in pods(render()) if "valkey" not in str(p)]
    assert {(s["runAsUser"], s["runAsGroup"]) for s in contexts} == {(10001, 10001)}


def test_the_app_version_of_the_chart_is_the_version_of_the_distribution(
    chart_folder: Path,
) -> None:
    project = tomllib.loads((chart_folder.parents[1] / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((chart_folder / "Chart.yaml").read_text())
    assert chart["appVersion"] == project["version"]


def test_monitors_name_ports_that_exist(render: Any) -> None:
    """A monitor that matches nothing scrapes nothing, without an error."""
    objects = render(EVERYTHING)
    for monitor in of_kind(objects, "ServiceMonitor"):
        want = monitor["spec"]["selector"]["matchLabels"].items()
        services = [
            s for s in of_kind(objects, "Service") if want <= s["metadata"]["labels"].items()
        ]
        assert len(services) == 1
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {p["name"] for p in services[0]["spec"]["ports"]}
        assert {"action": "labeldrop", "regex": "service"} in endpoint["relabelings"]
    for monitor in of_kind(objects, "PodMonitor"):
        # The operator's metrics have the `namespace` of an LLMService, which takes precedence.
        assert all(e["honorLabels"] for e in monitor["spec"]["podMetricsEndpoints"])
        want = monitor["spec"]["selector"]["matchLabels"].items()
        chosen = [p for p in pods(objects) if want <= p["metadata"]["labels"].items()]
        ports = {p["name"] for c in chosen[0]["spec"]["containers"] for p in c["ports"]}
        assert {e["port"] for e in monitor["spec"]["podMetricsEndpoints"]} <= ports


#: Where each process serves its probes; Kopf serves the operator's.
SERVED = {
    "queue": "queue_service/lengthwise_queue/api/health.py",
    "predictor": "predictor_service/lengthwise_predictor/routes.py",
}


@each_set
def test_every_http_probe_calls_a_port_and_a_path_that_its_container_serves(
    render: Any, values: Object
) -> None:
    for pod in pods(render(values)):
        for container in pod["spec"]["containers"]:
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                call = container.get(name, {}).get("httpGet")
                if call is None:
                    continue
                assert call["port"] in {port["name"] for port in container["ports"]}
                source = SERVED.get(container["name"])
                if source is not None:
                    assert f'.get("{call["path"]}"' in (ROOT / source).read_text()


def test_network_policies_name_ports_that_exist(render: Any) -> None:
    objects = render(EVERYTHING)
    policies = of_kind(objects, "NetworkPolicy")
    assert len(policies) == 4
    for policy in policies:
        want = policy["spec"]["podSelector"]["matchLabels"].items()
        chosen = [p for p in pods(objects) if want <= p["metadata"]["labels"].items()]
        assert len(chosen) == 1
        ports = {p["name"] for c in chosen[0]["spec"]["containers"] for p in c["ports"]}
        assert {p["port"] for rule in policy["spec"]["ingress"] for p in rule["ports"]} <= ports
