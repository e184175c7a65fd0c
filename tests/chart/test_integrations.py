"""The manifests of examples/integrations/, for programs that are not here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from lengthwise_operator.llmservice.names import API_VERSION, KIND
from lengthwise_operator.reasons import REASONS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "integrations"


def manifest(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def test_every_integration_is_tested_here() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {"keda.yaml", "argocd.yaml"}


def test_keda_scales_the_kind_that_exists_by_metrics_that_exist() -> None:
    scaled = manifest("keda.yaml")["spec"]
    target = scaled["scaleTargetRef"]
    assert (target["apiVersion"], target["kind"]) == (API_VERSION, KIND)
    (trigger,) = scaled["triggers"]
    metrics = re.findall(r"lengthwise_\w+", trigger["metadata"]["query"])
    page = (ROOT / "docs/reference/metrics.md").read_text()
    assert len(metrics) == 2
    for name in metrics:
        assert re.search(rf"^\| `{name}` \| `service` \|", page, re.MULTILINE)


def test_argo_cd_knows_only_reasons_that_exist() -> None:
    (script,) = manifest("argocd.yaml")["data"].values()
    named = set(re.findall(r"(\w+) = true", script))
    assert len(named) >= 8
    assert named <= {reason for reasons in REASONS.values() for reason in reasons}


@pytest.mark.parametrize(
    ("status", "want"),
    [
        (None, "Progressing"),
        ({}, "Progressing"),
        ({"status": "True", "reason": "Ready", "observedGeneration": 2}, "Healthy"),
        ({"status": "True", "reason": "Ready", "observedGeneration": 1}, "Progressing"),
        ({"status": "False", "reason": "Starting", "observedGeneration": 2}, "Progressing"),
        ({"status": "False", "reason": "NameConflict", "observedGeneration": 2}, "Degraded"),
    ],
)
def test_argo_cd_computes_the_health(
    redis_url: str, status: dict[str, Any] | None, want: str
) -> None:
    """Valkey runs the script: it has a Lua of the version that Argo CD has, 5.1."""
    (script,) = manifest("argocd.yaml")["data"].values()
    body: dict[str, Any] = {"metadata": {"generation": 2}}
    if status is not None:
        ready = {"type": "Ready", "message": "why", **status}
        body["status"] = {"conditions": [{"type": "EngineReady"}, ready]} if status else {}
    code = (
        "local obj = cjson.decode(ARGV[1])\n"
        f"local function judge()\n{script}\nend\nreturn judge().status"
    )
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.eval(code, 0, json.dumps(body)) == want
