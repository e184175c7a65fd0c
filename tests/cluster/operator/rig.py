"""What an LLMService needs on a real API server, and the operator of this working tree beside it.

The operator runs on the tests' machine (`kopf run`), so that the tests cover this working tree; the
tests of the chart run it in its image. Images: LENGTHWISE_TEST_QUEUE_IMAGE, _WORKER_IMAGE,
_ENGINE_IMAGE (built from engine.Dockerfile), _VALKEY_IMAGE.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helm_python
import httpx
import yaml
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[3]
QUEUE_IMAGE = os.environ.get("LENGTHWISE_TEST_QUEUE_IMAGE", "lengthwise/queue:0.1.0")
WORKER_IMAGE = os.environ.get("LENGTHWISE_TEST_WORKER_IMAGE", "lengthwise/worker:0.1.0")
ENGINE_IMAGE = os.environ.get("LENGTHWISE_TEST_ENGINE_IMAGE", "lengthwise-test/engine:dev")
VALKEY_IMAGE = os.environ.get("LENGTHWISE_TEST_VALKEY_IMAGE", "lengthwise-test/valkey:dev")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: str, look: Callable[[], Any], *, within_s: float = 60) -> Any:
    """Return what `look` returns as soon as it is true."""
    return eventually(look, what, within_s=within_s, every_s=0.5)


class Kube:
    """Runs kubectl in one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        beside = Path(os.environ["KUBECONFIG"]).parent / "bin" / "kubectl"
        found = shutil.which("kubectl") or (str(beside) if beside.exists() else None)
        assert found is not None, "put a kubectl on the PATH"
        self.binary: str = found

    def __call__(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        done = subprocess.run(
            [self.binary, "--namespace", self.namespace, *args],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(args)}: {done.stderr}")
        return done.stdout

    def get(self, kind: str, name: str) -> Any:
        """Get an object, or None."""
        text = self("get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def list(self, kind: str, selector: str = "") -> list[Any]:
        return list(json.loads(self("get", kind, "-o", "json", "-l", selector))["items"])

    def apply(self, manifest: Any) -> None:
        self("apply", "--validate=false", "-f", "-", stdin=json.dumps(manifest))

    def patch(self, kind: str, name: str, change: Any) -> None:
        self("patch", kind, name, "--type", "merge", "-p", json.dumps(change))


class Rig:
    """A namespace with Redis and a queue service, and the operator."""

    def __init__(self, kube: Kube, folder: Path) -> None:
        self.kube = kube
        self.folder = folder
        self.queue_port = free_port()
        self.liveness_port = free_port()
        self.metrics_port = free_port()
        self.kubeconfig = ""  # of the operator
        self._forward: subprocess.Popen[bytes] | None = None
        self._operator: subprocess.Popen[bytes] | None = None

    # -------------------------------------------------------------- processes

    def start(self) -> None:
        text = (Path(__file__).parent / "rig.yaml").read_text()
        text = text.replace("VALKEY_IMAGE", VALKEY_IMAGE).replace("QUEUE_IMAGE", QUEUE_IMAGE)
        self.kube("apply", "--validate=false", "-f", "-", stdin=text)
        for name in ("valkey", "queue"):
            self.kube("rollout", "status", f"deployment/{name}", "--timeout=110s")
        until("a way to the queue service", self._reaches_queue, within_s=60)
        self.kubeconfig = self._identity()
        self.start_operator()

    def _reaches_queue(self) -> bool:
        if self._forward is None or self._forward.poll() is not None:
            forward = [
                self.kube.binary,
                *("--namespace", self.kube.namespace),
                *("port-forward", "service/queue", f"{self.queue_port}:80"),
            ]
            self._forward = subprocess.Popen(
                forward, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(1)  # kubectl does not report when it listens
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).is_success
        except httpx.HTTPError:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.queue_port}"

    def _identity(self) -> str:
        """Write a kubeconfig of an account with exactly the rights in the chart."""
        with helm_python.Chart.load(ROOT / "charts" / "lengthwise") as chart:
            values = {"operator": {"watchNamespaces": [self.kube.namespace]}}
            texts = chart.render(values, name="rig", namespace=self.kube.namespace)
        for path, text in texts.items():
            if path.endswith("rbac.yaml"):
                self.kube("apply", "-f", "-", stdin=text)
        account = "rig-lengthwise-operator"
        self.kube("create", "serviceaccount", account)
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 86_400},
        }
        path = f"/api/v1/namespaces/{self.kube.namespace}/serviceaccounts/{account}/token"
        created = self.kube("create", "--raw", path, "-f", "-", stdin=json.dumps(request))
        config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
        config["users"] = [
            {"name": "operator", "user": {"token": json.loads(created)["status"]["token"]}}
        ]
        for context in config["contexts"]:
            context["context"]["user"] = "operator"
        file = self.folder / "kubeconfig"
        file.write_text(yaml.safe_dump(config))
        return str(file)

    def start_operator(self, **more: str) -> None:
        """Start the operator with additional variables, and wait until it is alive."""
        env = {
            "LENGTHWISE_OPERATOR_QUEUE_URL": self.url,
            "LENGTHWISE_OPERATOR_WORKER_IMAGE": WORKER_IMAGE,
            "LENGTHWISE_OPERATOR_POLL_SECONDS": "1",
            "LENGTHWISE_OPERATOR_METRICS_PORT": str(self.metrics_port),
            "LENGTHWISE_OPERATOR_NAMESPACES": self.kube.namespace,
            "LENGTHWISE_OPERATOR_QUEUE_DEPLOYMENT": f"{self.kube.namespace}/queue",
            "KUBECONFIG": self.kubeconfig,
            **more,
        }
        command = [
            *(sys.executable, "-m", "kopf", "run", "-m", "lengthwise_operator.handlers"),
            *("--standalone", "--log-format=json", "--namespace", self.kube.namespace),
            f"--liveness=http://127.0.0.1:{self.liveness_port}/healthz",
        ]
        with (self.folder / "operator.log").open("ab") as log:
            self._operator = subprocess.Popen(
                command, env={**os.environ, **env}, stdout=log, stderr=subprocess.STDOUT
            )
        until("the operator alive", self.operator_alive, within_s=60)

    def operator_alive(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.liveness_port}/healthz", timeout=5).is_success
        except httpx.HTTPError:
            return False

    def stop_operator(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self._operator is not None
        self._operator.send_signal(number)
        self._operator.wait(timeout=60)

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10).text

    def stop(self) -> None:
        for process in (self._operator, self._forward):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()

    # -------------------------------------------------------------- services

    def simulated(self, name: str, *, slots: int = 4, tokens_per_s: float = 50, **spec: Any) -> Any:
        """Build an LLMService with the simulated engine: the API of vLLM, without a model."""
        main = {
            "name": "main",
            "image": ENGINE_IMAGE,
            "args": [
                *("--host", "0.0.0.0", "--port", "8000", "--model", name, "--slots", str(slots)),  # noqa: S104
                *("--tokens-per-s", str(tokens_per_s), "--scheduling-policy", "priority"),
            ],
        }
        whole: dict[str, Any] = {
            "model": {"uri": "hf://simulated/model"},
            "engine": {"maxNumSeqs": slots, "startupTimeoutSeconds": 120},
            "sharedMemorySize": "0",
            "predictor": {"replicas": 0},
            "drain": {
                "preStopSeconds": 20,
                "shutdownTimeoutSeconds": 5,
                "deleteTimeoutSeconds": 60,
            },
            "podTemplate": {"spec": {"containers": [main]}},
        }
        return {
            "apiVersion": "lengthwise.dev/v1alpha1",
            "kind": "LLMService",
            "metadata": {"name": name, "namespace": self.kube.namespace},
            "spec": whole | spec,
        }

    until = staticmethod(until)

    def service(self, name: str) -> Any:
        return self.kube.get("llmservices.lengthwise.dev", name)

    def condition(self, name: str, type_: str = "Ready", of: Any = None) -> Any:
        found = (of or self.service(name) or {}).get("status", {}).get("conditions", [])
        return next((c for c in found if c["type"] == type_), {})

    def wait_ready(self, name: str, *, within_s: float = 90) -> Any:
        """Wait until Ready is true for the current generation."""

        def look() -> Any:
            seen = self.service(name)
            ready = self.condition(name, of=seen)
            current = ready.get("observedGeneration") == seen["metadata"]["generation"]
            return seen if ready.get("status") == "True" and current else None

        try:
            return until(f"{name} ready", look, within_s=within_s)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; condition: {self.condition(name)}") from None

    def wait_reason(
        self, name: str, reason: str, *, type_: str = "Ready", within_s: float = 60
    ) -> Any:
        """Wait until a condition has this reason; return the condition."""

        def look() -> Any:
            seen = self.condition(name, type_)
            return seen if seen.get("reason") == reason else None

        try:
            return until(f"{name}: {type_} {reason}", look, within_s=within_s)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; condition: {self.condition(name, type_)}") from None

    def replicas(self, name: str) -> int:
        seen = self.kube.get("deployment", f"{name}-engine")
        return int(seen["spec"]["replicas"]) if seen else -1

    def remove(self, name: str, *, within_s: float = 90) -> None:
        self.kube("delete", "llmservices.lengthwise.dev", name, "--wait=false", check=False)
        until(f"{name} gone", lambda: self.service(name) is None, within_s=within_s)

    # -------------------------------------------------------------- jobs

    def ask(self, model: str, *, tokens: int = 5, timeout_s: float = 60) -> httpx.Response:
        return httpx.post(
            f"{self.url}/v1/chat/completions", json=body(model, tokens), timeout=timeout_s
        )

    def submit(self, model: str, *, tokens: int) -> str:
        answer = httpx.post(f"{self.url}/v1/jobs", json={"body": body(model, tokens)}, timeout=30)
        answer.raise_for_status()
        return str(answer.json()["id"])

    def job(self, job_id: str) -> Any:
        return httpx.get(f"{self.url}/v1/jobs/{job_id}", timeout=30).json()


def body(model: str, tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": tokens,
        "ignore_eos": True,
    }
