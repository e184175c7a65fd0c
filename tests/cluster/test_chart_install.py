"""The chart on a real cluster: install, keep jobs, upgrade, uninstall."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

ROOT = Path(__file__).parents[2]
PREVIOUS = next(Path(__file__).with_name("previous").glob("*.tgz"))
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
QUEUE = "svc/lw-lengthwise-queue"

#: All kinds that a release creates; `kubectl get all` omits some.
KINDS = (
    "deployments,statefulsets,pods,services,endpoints,configmaps,secrets,serviceaccounts,"
    "persistentvolumeclaims,poddisruptionbudgets,networkpolicies,roles,rolebindings,jobs,ingresses"
)


def namespaced(helm: Any) -> dict[str, Any]:
    """Values of an operator that serves one namespace only."""
    return {**helm.values["operator"], "watchNamespaces": [helm.namespace]}


@pytest.fixture(scope="module")
def installed(helm: Any) -> Iterator[str]:
    """A release of the chart; its name."""
    helm.install("lw", operator=namespaced(helm))
    yield "lw"
    helm.uninstall("lw")


def submit(url: str, queue: str = "m") -> str:
    """Submit a job to a queue without workers; return its id."""
    httpx.put(f"{url}/v1/queues/{queue}", json={"request_ttl_ms": 3_600_000}).raise_for_status()
    body = {"model": queue, "messages": [{"role": "user", "content": "Hello"}]}
    answer = httpx.post(f"{url}/v1/jobs", json={"body": body}, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def state(url: str, job_id: str) -> str:
    return str(httpx.get(f"{url}/v1/jobs/{job_id}", timeout=30).raise_for_status().json()["state"])


def test_every_pod_becomes_ready_and_none_restarts(kubectl: Any, helm: Any, installed: str) -> None:
    pods = kubectl.get("pods", "-n", helm.namespace)
    assert len(pods) == 5
    for pod in pods:
        for container in pod["status"]["containerStatuses"]:
            assert container["ready"], pod["metadata"]["name"]
            assert container["restartCount"] == 0, pod["metadata"]["name"]


def test_no_pod_can_write_to_its_image_or_is_root(kubectl: Any, helm: Any, installed: str) -> None:
    for pod in kubectl.get("pods", "-n", helm.namespace):
        name = pod["metadata"]["name"]
        probe = "id -u; touch /x 2>/dev/null && echo wrote; touch /tmp/x && echo temporary"
        output = kubectl("exec", "-n", helm.namespace, name, "--", "sh", "-c", probe, check=False)
        uid, *wrote = output.split()
        assert int(uid) > 0, name
        assert wrote == ["temporary"], name


def test_the_curl_of_the_notes_is_answered(kubectl: Any, helm: Any, installed: str) -> None:
    with kubectl.forward(helm.namespace, QUEUE, 80) as url:
        answer = httpx.get(f"{url}/v1/models")
        assert answer.status_code == 200
        assert answer.json()["object"] == "list"


def test_helms_own_test_passes(helm: Any, installed: str) -> None:
    helm.test(installed)


def test_a_job_gets_its_prediction_in_the_cluster(kubectl: Any, helm: Any, installed: str) -> None:
    """The queue service finds the predictor by the name that the chart gave it."""
    with kubectl.forward(helm.namespace, QUEUE, 80) as url:
        # Not the first job: a predictor that just started may need longer than 20 ms.
        for _ in range(10):
            why = httpx.get(f"{url}/v1/jobs/{submit(url)}/explain").json()
            if why["prediction"] is not None:
                break
        assert why["prediction"]["p50_tokens"] > 0


def test_valkey_requires_the_password(kubectl: Any, helm: Any, installed: str) -> None:
    output = kubectl(
        *("exec", "-n", helm.namespace, "lw-lengthwise-valkey-0", "--"),
        *("env", "-u", "REDISCLI_AUTH", "valkey-cli", "ping"),
    )
    assert "NOAUTH" in output


def test_a_job_survives_a_restart_of_valkey(kubectl: Any, helm: Any, installed: str) -> None:
    with kubectl.forward(helm.namespace, QUEUE, 80) as url:
        job_id = submit(url)
        kubectl("delete", "pod", "-n", helm.namespace, "lw-lengthwise-valkey-0")
        kubectl(
            *("wait", "-n", helm.namespace, "pod/lw-lengthwise-valkey-0"),
            *("--for=condition=Ready", "--timeout=120s"),
        )
        helm_ready = "deployment/lw-lengthwise-queue"
        kubectl("rollout", "status", "-n", helm.namespace, helm_ready, "--timeout=120s")
        assert state(url, job_id) == "queued"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_accepted_by_the_api_server(
    kubectl: Any, helm: Any, installed: str, path: Path
) -> None:
    output = kubectl(
        "apply", "--dry-run=server", "--validate=false", "-n", helm.namespace, "-f", str(path)
    )
    assert "created (server dry run)" in output


def test_a_misspelt_field_is_not_kept_by_the_api_server(
    kubectl: Any, helm: Any, installed: str
) -> None:
    manifest = yaml.safe_load(EXAMPLES[0].read_text())
    manifest["spec"]["engnie"] = {}
    output = kubectl(
        *("create", "--dry-run=server", "--validate=false", "-n", helm.namespace),
        *("-f", "-", "-o", "yaml"),
        stdin=yaml.safe_dump(manifest),
    )
    assert "engnie" not in output


def test_an_upgrade_from_the_previous_chart_keeps_the_jobs_and_the_password(
    kubectl: Any, helm: Any, until: Any
) -> None:
    queue = "app.kubernetes.io/instance=old,app.kubernetes.io/component=queue"
    off = {**helm.values["operator"], "enabled": False}
    secret = ("secret", "old-lengthwise-redis", "-n", helm.namespace)
    helm.install("old", chart=PREVIOUS, operator=off)
    try:
        password = kubectl.get(*secret)[0]["data"]["password"]
        with kubectl.forward(helm.namespace, "svc/old-lengthwise-queue", 80) as url:
            job_id = submit(url)
        helm.upgrade("old", operator=off)
        assert kubectl.get(*secret)[0]["data"]["password"] == password
        assert len(base64.b64decode(password)) == 32
        # Until the old pods have ended, kubectl may forward to one of them.
        until(
            lambda: all(
                "deletionTimestamp" not in pod["metadata"]
                for pod in kubectl.get("pods", "-n", helm.namespace, "-l", queue)
            ),
            "the old pods of the queue are gone",
        )
        with kubectl.forward(helm.namespace, "svc/old-lengthwise-queue", 80) as url:
            assert state(url, job_id) == "queued"
    finally:
        helm.uninstall("old")


def test_uninstalling_keeps_only_the_crd(kubectl: Any, helm: Any, until: Any) -> None:
    def release_objects() -> set[str]:
        names = kubectl("get", KINDS, "-n", helm.namespace, "-o", "name").split()
        return {name for name in names if "gone-" in name or "helm.release" in name}

    def cluster_objects() -> set[str]:
        kinds = "clusterroles,clusterrolebindings,persistentvolumes"
        selector = "app.kubernetes.io/instance=gone"
        return set(kubectl("get", kinds, "-l", selector, "-o", "name").split())

    before = release_objects()
    helm.install("gone", operator=namespaced(helm))
    assert len(release_objects() - before) > 10
    helm.uninstall("gone", wait=True)
    until(lambda: release_objects() == before, "every object of the release is gone")
    assert cluster_objects() == set()
    [definition] = kubectl.get("crd", "llmservices.lengthwise.dev")
    assert "deletionTimestamp" not in definition["metadata"]
