"""The whole path with a real vLLM: install the chart, apply a manifest, use OpenAI's client.

The engine is vLLM on the CPU with SmolLM2 (see the fixture `vllm_image`); the model is in that
image, at LENGTHWISE_TEST_MODEL.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from lengthwise_cli.local import ports
from lengthwise_lab.dashboards import queries

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cpu-test-model.yaml"
DASHBOARDS = sorted((ROOT / "charts" / "lengthwise" / "dashboards").glob("*.json"))
MODEL = os.environ.get("LENGTHWISE_TEST_MODEL", "path:///models/smollm2")

SERVICES = "llmservices.lengthwise.dev"

#: Longest time for vLLM to start, s: half a minute on two idle cores, minutes on busy ones.
LOAD_S = 420


def manifest(image: str) -> dict[str, Any]:
    """The example, with a model and an image that the cluster has."""
    found = yaml.safe_load(EXAMPLE.read_text())
    assert isinstance(found, dict)
    found["spec"]["model"]["uri"] = MODEL
    found["spec"]["engine"]["image"] = image
    found["spec"]["resources"] = {"requests": {"cpu": "100m", "memory": "1Gi"}}
    del found["spec"]["modelCache"]  # the model is in the image
    return found


@pytest.fixture(scope="module")
def served(kubectl: Any, helm: Any, vllm_image: str) -> Iterator[str]:
    """URL of the queue service of a release that serves a Ready LLMService."""
    operator = {**helm.values["operator"], "watchNamespaces": [helm.namespace]}
    helm.install("lw", operator=operator)
    try:
        kubectl(
            "apply", "-n", helm.namespace, "-f", "-", stdin=yaml.safe_dump(manifest(vllm_image))
        )
        kubectl(
            *("wait", "-n", helm.namespace, f"{SERVICES}/smollm2"),
            *("--for=condition=Ready", f"--timeout={LOAD_S}s"),
        )
        with kubectl.forward(helm.namespace, "svc/lw-lengthwise-queue", 80) as url:
            yield url
        kubectl("delete", "-n", helm.namespace, f"{SERVICES}/smollm2", "--timeout=180s")
    finally:
        # Without the operator, nothing removes the finalizer.
        forget = '{"metadata": {"finalizers": null}}'
        kubectl(
            *("patch", "-n", helm.namespace, f"{SERVICES}/smollm2", "--type=merge", "-p", forget),
            check=False,
        )
        helm.uninstall("lw")


def test_openais_client_is_answered_by_a_real_model(served: str) -> None:
    with openai.OpenAI(base_url=f"{served}/v1", api_key="none", timeout=240) as client:
        assert [model.id for model in client.models.list()] == ["smollm2"]
        answer = client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            max_tokens=24,
            temperature=0,
        )
    # The answer need not be right: a model of 135 million parameters makes mistakes.
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 24


def test_a_stream_has_several_chunks(served: str) -> None:
    with openai.OpenAI(base_url=f"{served}/v1", api_key="none", timeout=240) as client:
        pieces = [
            chunk.choices[0].delta.content
            for chunk in client.chat.completions.create(
                model="smollm2",
                messages=[{"role": "user", "content": "Count from one to ten."}],
                max_tokens=24,
                stream=True,
            )
            if chunk.choices and chunk.choices[0].delta.content
        ]
    assert len(pieces) > 3


def test_kubectl_get_shows_the_state_of_the_service(kubectl: Any, helm: Any, served: str) -> None:
    head, line = kubectl("get", SERVICES, "-n", helm.namespace).splitlines()
    assert head.split()[:6] == ["NAME", "MODEL", "READY", "REASON", "REPLICAS", "QUEUED"]
    assert line.split()[:3] == ["smollm2", MODEL, "True"]


def test_the_engine_pod_exports_the_metrics_of_the_dashboards(
    kubectl: Any, helm: Any, served: str
) -> None:
    """The names of vLLM's metrics change; the stack of test_monitoring.py has no vLLM."""
    for port, names in (
        (8000, ["vllm:num_requests_running{", "vllm:num_requests_waiting{", "_cache_usage_perc{"]),
        (8082, ["lengthwise_worker_slots 16.0", "lengthwise_worker_engine_healthy 1.0"]),
    ):
        with kubectl.forward(helm.namespace, "deploy/smollm2-engine", port) as url:
            text = httpx.get(f"{url}/metrics", timeout=30).text
        assert [name for name in names if name not in text] == []


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Prometheus")
def test_prometheus_has_data_for_the_panels_about_operator_and_vllm(
    kubectl: Any, helm: Any, served: str, tmp_path: Path, until: Any
) -> None:
    """test_monitoring.py covers the other panels with the local stack, which has neither."""
    # The labels that the monitors of chart and operator add, and whether the target's labels win.
    engine = {"component": "engine", "service": "smollm2", "namespace": helm.namespace}
    elsewhere = {"component": "operator", "namespace": "where-the-operator-is"}
    jobs = {
        "operator": ("deploy/lw-lengthwise-operator", 8084, elsewhere, True),
        "vllm": ("deploy/smollm2-engine", 8000, engine, False),
        "worker": ("deploy/smollm2-engine", 8082, engine, False),
    }
    with ExitStack() as stack:
        scrapes = []
        for name, (target, port, labels, honor) in jobs.items():
            url = stack.enter_context(kubectl.forward(helm.namespace, target, port))
            static = {"targets": [url.removeprefix("http://")], "labels": labels}
            scrapes.append({"job_name": name, "honor_labels": honor, "static_configs": [static]})
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": scrapes}
        (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
        at = f"127.0.0.1:{ports.find_free()}"
        process = subprocess.Popen(
            [
                *("prometheus", f"--config.file={tmp_path}/prometheus.yaml"),
                *(f"--storage.tsdb.path={tmp_path}/tsdb", f"--web.listen-address={at}"),
            ],
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        prometheus = queries.Prometheus(f"http://{at}")
        stack.callback(prometheus.close)

        def all_up() -> bool:
            try:
                return sum(s.values[0] for s in prometheus.now("up")) == len(jobs)
            except httpx.HTTPError:
                return False

        until(all_up, "three targets up", within_s=60)
        asked = [
            queries.expand(target.expr, span_s=60, service="smollm2", rate_interval="8s")
            for path in DASHBOARDS
            for panel in queries.read(path)[1]
            for target in panel.targets
            if re.search("vllm:|lengthwise_(operator|autoscaler|worker)", target.expr)
        ]
        assert len(asked) >= 4
        until(
            lambda: all(prometheus.now(expr) for expr in asked),
            f"data for all of {asked}",
            within_s=30,
        )
        [ready] = prometheus.now(
            "min by (namespace, llmservice) (lengthwise_operator_service_ready)"
        )
        assert ready.labels == {"namespace": helm.namespace, "llmservice": "smollm2"}
        assert ready.values == [1.0]


def test_the_rights_in_the_chart_are_enough_for_the_operator(
    kubectl: Any, helm: Any, served: str
) -> None:
    log = kubectl("logs", "-n", helm.namespace, "deploy/lw-lengthwise-operator", "--tail=2000")
    lines = [json.loads(line) for line in log.splitlines()]  # --log-format=json
    assert [line for line in lines if "forbidden" in str(line).lower()] == []
    account = f"system:serviceaccount:{helm.namespace}:lw-lengthwise-operator"
    for verb, what, want in (
        ("patch", "deployments", "yes"),
        ("get", "secrets", "no"),
        ("create", "pods/exec", "no"),
        ("delete", "persistentvolumeclaims", "no"),
    ):
        answer = kubectl(
            *("auth", "can-i", verb, what, "--as", account, "-n", helm.namespace), check=False
        )
        assert answer.strip() == want, f"{verb} {what}"
    elsewhere = kubectl(
        *("auth", "can-i", "list", SERVICES, "--as", account, "-n", "default"), check=False
    )
    assert elsewhere.strip() == "no"
