"""One installation of the chart with the LLMService `chat`, for test_chart_fields.py."""

from __future__ import annotations

import base64
import json
import os
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from lengthwise_cli.main import build

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "llmservices.lengthwise.dev/chat"
QUEUE, PREDICTOR = "svc/lw-lengthwise-queue", "svc/lw-lengthwise-predictor"
VALKEY = "pod/lw-lengthwise-valkey-0"
ENGINE = os.environ.get("LENGTHWISE_TEST_ENGINE_IMAGE", "lengthwise-test/engine:dev")
IMAGE = os.environ.get("LENGTHWISE_TEST_PREDICTOR_IMAGE", "lengthwise/predictor:0.1.0")

#: Two prompts for which every predictor predicts different lengths.
SHORT = "Is the sky blue? Answer with yes or no."
LONG = "Write a detailed essay of 2000 words about the history of Rome, with ten chapters."

#: A pod that fills the claim as a user would: with versions of the bundled model in folders.
SHELF = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: models}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: shelf}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: shelf
      image: IMAGE
      command: [sh, -c, "chmod 755 /models && exec sleep 3600"]
      securityContext: {runAsUser: 0}  # hostPath volumes belong to root
      volumeMounts: [{name: models, mountPath: /models}]
  volumes: [{name: models, persistentVolumeClaim: {claimName: models}}]
"""

#: python3 -c COPY FOLDER VERSION: a copy of the bundled model that reports VERSION.
COPY = """
import json, pathlib, shutil, sys
from lengthwise_predictor.settings import BUNDLED
folder, version = pathlib.Path("/models", sys.argv[1]), sys.argv[2]
shutil.copytree(BUNDLED, folder)
card = json.loads((folder / "model.json").read_text())
(folder / "model.json").write_text(json.dumps(card | {"version": version}))
"""


class ModelStore:
    """The claim with the models."""

    def __init__(self, kubectl: Any, namespace: str) -> None:
        self._kubectl, self._namespace = kubectl, namespace

    def _run(self, *command: str) -> None:
        self._kubectl("exec", "-n", self._namespace, "shelf", "--", *command)

    def put(self, folder: str, version: str) -> None:
        """Copy a model into a new folder."""
        self._run("python3", "-c", COPY, folder, version)

    def turn(self, folder: str) -> None:
        """Point the link `current` to a folder, in one step."""
        self._run("ln", "-s", folder, "/models/next")
        self._run("mv", "-T", "/models/next", "/models/current")

    def cut(self, folder: str) -> None:
        """Create a model with a truncated file, as an interrupted copy does."""
        self._run("cp", "-r", "/models/first", f"/models/{folder}")
        self._run("truncate", "-s", "1000", f"/models/{folder}/model.onnx")


def manifest(**parts: Any) -> dict[str, Any]:
    """The LLMService `chat` with a simulated engine of two slots, 2,000 tokens/s each."""
    main = {
        "name": "main",
        "image": ENGINE,
        "args": [
            *("--host", "0.0.0.0", "--port", "8000", "--model", "chat", "--slots", "2"),  # noqa: S104
            *("--tokens-per-s", "2000", "--scheduling-policy", "priority"),
        ],
    }
    spec: dict[str, Any] = {
        "model": {"uri": "hf://simulated/model"},
        "engine": {"maxNumSeqs": 2, "startupTimeoutSeconds": 120},
        "sharedMemorySize": "0",
        "drain": {"preStopSeconds": 5, "shutdownTimeoutSeconds": 5, "deleteTimeoutSeconds": 0},
        "podTemplate": {"spec": {"containers": [main]}},
    }
    return {
        "apiVersion": "lengthwise.dev/v1alpha1",
        "kind": "LLMService",
        "metadata": {"name": "chat"},
        "spec": spec | parts,
    }


class Installation:
    """The release, with URLs of its queue service and its predictor."""

    def __init__(self, kubectl: Any, namespace: str, models: ModelStore, url: str, predictor: str):
        self.kubectl, self.namespace, self.models = kubectl, namespace, models
        self.url, self.predictor = url, predictor

    def apply(self, **parts: Any) -> None:
        self.kubectl(
            *("apply", "-n", self.namespace, "--validate=false", "-f", "-"),
            stdin=json.dumps(manifest(**parts)),
        )

    def refused(self, **parts: Any) -> str:
        """Apply a manifest that the API server must refuse; return the message."""
        with pytest.raises(AssertionError) as refusal:
            self.apply(**parts)
        return str(refusal.value)

    def settings(self) -> dict[str, Any]:
        view = httpx.get(f"{self.url}/v1/queues/chat", timeout=10).raise_for_status().json()
        return dict(view["settings"])

    def condition(self, type_: str = "Ready") -> dict[str, Any]:
        """The condition of that type; {} while it belongs to an older generation."""
        [seen] = self.kubectl.get(SERVICE, "-n", self.namespace)
        for condition in seen.get("status", {}).get("conditions", []):
            if condition["type"] == type_:
                current = condition["observedGeneration"] == seen["metadata"]["generation"]
                return dict(condition) if current else {}
        return {}

    def ask(self, prompt: str, tokens: int) -> None:
        path = f"{self.url}/v1/chat/completions"
        answer = httpx.post(path, json=body(prompt, tokens), timeout=60)
        assert answer.status_code == 200, answer.text

    def explained(self, prompt: str, tokens: int) -> dict[str, Any]:
        """Submit a job; return the explanation of its place in the queue."""
        answer = httpx.post(f"{self.url}/v1/jobs", json={"body": body(prompt, tokens)}, timeout=30)
        answer.raise_for_status()
        why = httpx.get(f"{self.url}/v1/jobs/{answer.json()['id']}/explain", timeout=30)
        return dict(why.raise_for_status().json())

    def version_for(self, llm: str) -> str:
        """Version of the model that predicts for an LLM."""
        asked = {"model": llm, "prompt": SHORT}
        answer = httpx.post(f"{self.predictor}/v1/predict", json=asked, timeout=30)
        return str(answer.raise_for_status().json()["model_version"])

    def metrics(self) -> str:
        return httpx.get(f"{self.predictor}/metrics", timeout=30).text

    def collected(self, out: Path, rows: int) -> list[dict[str, Any]]:
        """Run `lengthwise collect --from-queue`; return the rows that it writes."""
        [secret] = self.kubectl.get("secret", "lw-lengthwise-redis", "-n", self.namespace)
        password = base64.b64decode(secret["data"]["password"]).decode()

        def collect(address: str) -> bool:
            url = f"redis://:{password}@{address}"
            command = ["collect", "--from-queue", url, "--model", "chat", "--out", str(out)]
            limits = ["--rows", str(rows), "--for-s", "20"]
            return CliRunner().invoke(build(), [*command, *limits]).exit_code == 0

        with self.kubectl.forward(self.namespace, VALKEY, 6379, reached=collect):
            return [json.loads(line) for line in out.read_text().splitlines()]

    def pods(self) -> set[tuple[str, int]]:
        """Every pod, with the number of restarts of its containers."""
        return {
            (pod["metadata"]["uid"], sum(c["restartCount"] for c in statuses))
            for pod in self.kubectl.get("pods", "-n", self.namespace)
            if (statuses := pod["status"].get("containerStatuses", ()))
        }


def body(prompt: str, tokens: int) -> dict[str, Any]:
    return {
        "model": "chat",
        "messages": [{"role": "user", "content": prompt}],
        "vllm_xargs": {"output_tokens": tokens},
    }


class PredictionLoad:
    """Requests predictions of both models until it ends; keeps versions and errors."""

    def __init__(self, lw: Installation) -> None:
        self.versions: list[str] = []
        self.failed: list[str] = []
        self._lw, self._stop = lw, threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=[llm]) for llm in ("chat", "another")
        ]

    def __enter__(self) -> PredictionLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def _run(self, llm: str) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                answer = client.post(
                    f"{self._lw.predictor}/v1/predict", json={"model": llm, "prompt": LONG}
                )
                if answer.is_success:
                    self.versions.append(answer.json()["model_version"])
                else:
                    self.failed.append(answer.text)
