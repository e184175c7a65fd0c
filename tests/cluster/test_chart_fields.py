"""Fields of the chart and of LLMService that take effect at run time, on one real installation.

The release comes from the chart, and the operator runs in its image. The engine is the simulated
one, whose answers have the length that each request sets. All tests share the installation and its
one LLMService, `chat`, and each restores the manifest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.cluster.chart_installation import (
    IMAGE,
    LONG,
    PREDICTOR,
    QUEUE,
    ROOT,
    SERVICE,
    SHELF,
    SHORT,
    VALKEY,
    Installation,
    ModelStore,
    PredictionLoad,
)
from tests.waiting import eventually

from lengthwise_store.keys import QueueKeys


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


def test_each_llm_uses_the_model_that_the_chart_names_for_it(
    lw: Installation, until: Callable[..., None]
) -> None:
    bundled = lw.version_for("another")
    assert lw.version_for("chat") == "first"
    assert bundled != "first"

    def predicted_by_the_first() -> bool:
        prediction = lw.explained(SHORT, 1)["prediction"]  # None: it took over 20 ms
        return prediction is not None and prediction["model_version"] == "first"

    until(predicted_by_the_first, "a job predicted by its model", within_s=60)


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

        def predicted() -> dict[str, Any] | None:
            why = lw.explained(LONG, 800)
            return why if why["prediction"] is not None else None

        def bound_ms(factor: float, **queue: Any) -> float:
            lw.apply(queue=queue)
            until(lambda: lw.settings()["overtake_wait_factor"] == factor, f"{factor}")
            time.sleep(2)  # time passes: the settings that order a job are at most a second old
            # On a busy machine a prediction may miss its deadline: the bound is then the median's.
            why = eventually(predicted, "a job with a prediction", every_s=0.5)
            return float(why["overtake_bound_ms"])

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
