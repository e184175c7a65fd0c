"""Fields of the chart and of LLMService that take effect at run time, on one real installation.

The release comes from the chart, and the operator runs in its image. The engine is the simulated
one, whose answers have the length that each request sets. All tests share the installation and its
one LLMService, `chat`, and each restores the manifest.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from lengthwise_cli.main import build
from lengthwise_store.keys import QueueKeys

ROOT = Path(__file__).parents[2]
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


@pytest.fixture(scope="module")
def lw(kubectl: Any, helm: Any, until: Callable[..., None]) -> Iterator[Installation]:
    # The chart does not change a CRD of another release, which may be older.
    kubectl("apply", "--validate=false", "-f", str(ROOT / "crds"))
    kubectl("apply", "-n", helm.namespace, "-f", "-", stdin=SHELF.replace("IMAGE", IMAGE))
    kubectl(
        *("wait", "-n", helm.namespace, "pod/shelf", "--for=condition=Ready", "--timeout=120s"),
    )
    models = ModelStore(kubectl, helm.namespace)
    models.put("first", "first")
    models.turn("first")
    helm.install(
        "lw",
        operator={**helm.values["operator"], "watchNamespaces": [helm.namespace]},
        predictor={
            **helm.values["predictor"],
            "existingClaim": "models",
            # The folder `later` does not exist yet: only its LLM uses another model.
            "models": {"chat": "current", "later": "later"},
            "reloadEverySeconds": 0.5,
        },
    )
    try:
        with (
            kubectl.forward(helm.namespace, QUEUE, 80) as url,
            kubectl.forward(helm.namespace, PREDICTOR, 80) as predictor,
        ):
            made = Installation(kubectl, helm.namespace, models, url, predictor)
            made.apply()
            until(lambda: made.condition().get("status") == "True", "the service is Ready")
            yield made
        kubectl("delete", "-n", helm.namespace, SERVICE, "--timeout=120s")
    finally:
        forget = '{"metadata": {"finalizers": null}}'
        kubectl(
            *("patch", "-n", helm.namespace, SERVICE, "--type=merge", "-p", forget), check=False
        )
        helm.uninstall("lw")


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


def test_each_llm_uses_the_model_that_the_chart_names_for_it(lw: Installation) -> None:
    bundled = lw.version_for("another")
    assert lw.version_for("chat") == "first"
    assert bundled != "first"
    assert lw.explained(SHORT, 1)["prediction"]["model_version"] == "first"


def test_a_replaced_model_is_loaded_without_a_restart_or_a_failed_request(
    lw: Installation, until: Callable[..., None]
) -> None:
    pods = lw.pods()
    with PredictionLoad(lw) as load:
        lw.models.put("second", "second")
        lw.models.turn("second")
        until(lambda: "second" in load.versions, "the second model answers", within_s=60)
        [seen] = lw.kubectl.get(SERVICE, "-n", lw.namespace)
        assert seen["status"]["predictor"]["version"] in ("first", "second")
        # A folder that cannot be loaded changes nothing, and the LLMService reports it.
        lw.models.cut("broken")
        lw.models.turn("broken")
        until(
            lambda: lw.condition("PredictorReady").get("reason") == "ModelRefused",
            "the broken model is refused",
            within_s=90,
        )
        assert "/model/broken/model.onnx" in lw.condition("PredictorReady")["message"]
        assert lw.version_for("chat") == "second"
        lw.models.turn("first")
        until(lambda: lw.version_for("chat") == "first", "the first one again", within_s=60)
    assert load.failed == []
    assert lw.pods() == pods


def test_a_folder_that_appears_later_is_loaded(
    lw: Installation, until: Callable[..., None]
) -> None:
    assert lw.version_for("later") == lw.version_for("another")
    lw.models.put("later", "late")
    until(lambda: lw.version_for("later") == "late", "the later model predicts", within_s=60)


def test_the_overtake_bound_follows_the_factor_in_the_manifest(
    lw: Installation, until: Callable[..., None]
) -> None:
    with ThreadPoolExecutor(4) as pool:  # 48 answers, in the predicted order
        list(pool.map(lambda i: lw.ask(*((LONG, 800) if i % 4 == 0 else (SHORT, 5))), range(48)))
    # The operator's settings without calibration: 48 answers are too few to correct two lengths.
    raw = lw.settings() | {"calibrate": False}
    httpx.put(f"{lw.url}/v1/queues/chat", json=raw, timeout=10).raise_for_status()
    httpx.post(f"{lw.url}/v1/queues/chat/pause", timeout=10).raise_for_status()
    try:
        for _ in range(20):
            lw.explained(LONG, 800)

        def bound_ms(factor: float, **queue: Any) -> float:
            lw.apply(queue=queue)
            until(lambda: lw.settings()["overtake_wait_factor"] == factor, f"{factor}")
            time.sleep(2)  # time passes: the settings that order a job are at most a second old
            return float(lw.explained(LONG, 800)["overtake_bound_ms"])

        alone = bound_ms(0, overtakeWaitFactor=0)
        much = bound_ms(20, overtakeWaitFactor=20)
        default = bound_ms(2)
        assert alone < default < much, (alone, default, much, lw.explained(LONG, 800))
    finally:
        httpx.post(f"{lw.url}/v1/queues/chat/resume", timeout=10).raise_for_status()
    until(
        lambda: httpx.get(f"{lw.url}/v1/queues/chat", timeout=10).json()["depth"] == 0,
        "the queue is served",
    )


def test_the_drift_window_follows_the_manifest(
    lw: Installation, until: Callable[..., None]
) -> None:
    hour = lw.settings()["drift_window_ms"]
    assert hour == 3_600_000
    for window, want in (("1m30s", 90_000), ("0s", None), (None, hour)):
        lw.apply(predictor={} if window is None else {"driftWindow": window})
        until(lambda want=want: lw.settings()["drift_window_ms"] == want, f"{window}", within_s=30)


def test_rows_are_kept_while_the_manifest_sets_it_and_collect_reads_them(
    lw: Installation, until: Callable[..., None], tmp_path: Path
) -> None:
    record = QueueKeys("chat").record

    def valkey(*command: str) -> str:
        return str(lw.kubectl("exec", "-n", lw.namespace, VALKEY, "--", "valkey-cli", *command))

    def kept() -> int:
        return int(valkey("XLEN", record))

    lw.ask("not to be kept", 3)
    lw.apply(queue={"recordRows": 5})
    until(lambda: lw.settings()["record_rows"] == 5, "the setting", within_s=30)

    def asked_and_kept() -> bool:
        lw.ask("to be kept", 3)
        return kept() > 0

    until(asked_and_kept, "a row", within_s=30)  # a worker reads the setting every 10 s
    for i in range(8):
        lw.ask(f"prompt {i}", 10 + i)
    until(lambda: "prompt 7" in valkey("XREVRANGE", record, "+", "-", "COUNT", "1"), "the last")
    got = lw.collected(tmp_path / "rows.jsonl", 5)
    assert [row["messages"][0]["content"] for row in got] == [f"prompt {i}" for i in range(3, 8)]
    assert [row["output_tokens"] for row in got] == [13, 14, 15, 16, 17]
    lw.apply()
    until(lambda: lw.settings()["record_rows"] == 0, "the default", within_s=30)
    until(lambda: kept() == 0, "the record is deleted", within_s=30)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"queue": {"overtakeWaitFactor": 101}}, "less than or equal to 100"),
        ({"queue": {"recordRows": -1}}, "greater than or equal to 0"),
        ({"predictor": {"driftWindow": "a while"}}, "spec.predictor.driftWindow"),
        ({"predictor": {"reloadEvery": "5"}}, "spec.predictor.reloadEvery"),
    ],
)
def test_an_invalid_value_is_refused_at_apply(
    lw: Installation, parts: dict[str, Any], message: str
) -> None:
    assert message in lw.refused(**parts)


def test_a_drift_window_that_is_too_short_is_reported_and_changes_nothing(
    lw: Installation, until: Callable[..., None]
) -> None:
    """Kubernetes 1.25 and later refuses it at apply; on 1.20 the operator reports it."""
    before, pods = lw.settings(), lw.pods()
    lw.apply(predictor={"driftWindow": "30s"})
    until(lambda: lw.condition().get("reason") == "InvalidSpec", "it is reported", within_s=30)
    assert "driftWindow must be 0s or between 1m and 720h" in lw.condition()["message"]
    assert lw.settings() == before
    lw.apply()
    until(lambda: lw.condition().get("status") == "True", "the service is Ready again", within_s=30)
    assert lw.pods() == pods
