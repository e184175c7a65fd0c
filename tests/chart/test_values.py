"""The values of the chart, their schema, and the files of the chart that are copies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from tests.chart.releases import EVERYTHING, EXTERNAL, Object, of_kind


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"qeueu": {}}, "qeueu"),
        ({"queue": {"replicas": 0}}, "replicas"),
        ({"predictor": {"models": {"m": "mine"}}}, "existingClaim"),
        ({"predictor": {"reloadEverySeconds": -1}}, "reloadEverySeconds"),
        ({"valkey": {"enabled": False}}, "redis"),
        ({"valkey": {"appendfsync": "sometimes"}}, "appendfsync"),
        ({"networkPolicy": {"metricsFrom": [{"namespace": "monitoring"}]}}, "metricsFrom"),
        ({"monitoring": {"prometheusRule": {"rules": {"X": {"fro": "1m"}}}}}, "fro"),
        ({"redis": {"durability": {"mode": "never"}}}, "durability"),
        ({"redis": {"durability": {"mode": "replica"}}}, "a Redis with replicas"),
        ({"redis": {"durability": {"mode": "always"}}}, "appendfsync=always"),
        ({"redis": {"tls": {"existingSecret": "mine"}}}, "your own Redis"),
        ({**EXTERNAL, "redis": {"existingSecret": "r", "tls": {"certKey": "c"}}}, "go together"),
        (
            {**EXTERNAL, "redis": {"existingSecret": "r", "tls": {"certKey": "c", "keyKey": "k"}}},
            "which is not set",
        ),
    ],
    ids=[
        *(
            "unknown",
            "too-few",
            "models-without-a-claim",
            "negative-interval",
            "no-redis-at-all",
            "not-a-choice",
            "not-a-peer",
            "typo-in-a-rule",
        ),
        *("no-such-durability", "no-replicas", "no-fsync", "tls-of-the-charts-own", "half-a-pair"),
        "no-secret-for-the-pair",
    ],
)
def test_invalid_values_are_refused_with_their_name(
    render: Any, values: Object, message: str
) -> None:
    with pytest.raises(helm_python.HelmError, match=message):
        render(values)


def test_api_keys_without_one_for_the_operator_are_refused(render: Any) -> None:
    with pytest.raises(helm_python.HelmError, match="adminKeySecret is needed"):
        render({"tenants": {"existingSecret": "tenants"}})


def test_helm_lint_finds_nothing(chart_folder: Path) -> None:
    found = helm_python.lint(str(chart_folder))
    # Helm recommends an icon with severity 1, which is not a warning.
    assert [m for m in found["messages"] if m["severity"] > 1] == []
    assert found["errors"] == []


def test_every_value_is_in_the_schema(chart_folder: Path) -> None:
    """values.yaml and values.schema.json are two copies; this holds them equal."""
    values = yaml.safe_load((chart_folder / "values.yaml").read_text())
    schema = yaml.safe_load((chart_folder / "values.schema.json").read_text())

    def compare(value: Any, part: Object, path: str) -> None:
        if not isinstance(value, dict) or "properties" not in part:
            return
        missing = {k for k in part["properties"] if k not in value} - {"global"}
        if path.split(".")[-1] not in ("resources", "image"):
            assert missing == set(), f"{path}: in the schema and not in values.yaml"
        for key, child in value.items():
            assert key in part["properties"], f"{path}.{key} is not in the schema"
            compare(child, part["properties"][key], f"{path}.{key}")

    compare(values, schema, "")


def test_the_charts_copy_of_the_crd_is_its_source(chart_folder: Path) -> None:
    copies = {p.name: p.read_text() for p in (chart_folder / "files" / "crds").glob("*.yaml")}
    source = chart_folder.parents[1] / "crds"
    assert copies == {p.name: p.read_text() for p in source.glob("*.yaml")}
    assert copies


def test_the_crd_is_rendered_whole_and_kept_on_uninstall(render: Any, chart_folder: Path) -> None:
    (got,) = of_kind(render(), "CustomResourceDefinition")
    (path,) = (chart_folder.parents[1] / "crds").glob("*.yaml")
    want = yaml.safe_load(path.read_text())
    assert got["spec"] == want["spec"]
    assert got["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert of_kind(render({"crds": {"install": False}}), "CustomResourceDefinition") == []


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_the_notes_name_the_service_that_exists(chart_folder: Path, values: Object) -> None:
    with helm_python.Chart.load(chart_folder) as chart:
        texts = chart.render(values, name="lw", namespace="llm")
    notes = next(t for path, t in texts.items() if path.endswith("NOTES.txt"))
    assert "/v1/chat/completions" in notes
    assert "llmservices.lengthwise.dev" in notes
    if not values:
        assert "svc/lw-lengthwise-queue 8080:80" in notes
    else:
        assert "URL=https://llm.example.com" in notes
    manifest = re.search(r"<<'EOF'\n(.*?)\nEOF\n", notes, re.DOTALL)
    assert manifest is not None
    assert yaml.safe_load(manifest[1])["kind"] == "LLMService"


def comments(text: str) -> dict[str, str]:
    """The comment above each key of values.yaml, by the path of the key."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    above: list[str] = []
    for line in text.splitlines():
        key = re.match(r"( *)(\w+):", line)
        if line.strip().startswith("#"):
            above.append(line.strip().removeprefix("#").strip())
            continue
        if key is not None:
            depth = len(key[1])
            parents = [*(p for p in parents if p[0] < depth), (depth, key[2])]
            words = [part for part in above if not part.startswith("---")]
            if words:
                found[".".join(name for _, name in parents)] = " ".join(words)
        above = []
    return found


def test_the_descriptions_in_the_schema_are_the_comments_in_the_values(chart_folder: Path) -> None:
    schema = yaml.safe_load((chart_folder / "values.schema.json").read_text())
    written = comments((chart_folder / "values.yaml").read_text())
    described = {}

    def collect(part: Object, path: str) -> None:
        if path and "description" in part:
            described[path] = part["description"]
        for name, child in part.get("properties", {}).items():
            collect(child, f"{path}.{name}".strip("."))

    collect(schema, "")
    described.pop("global")  # Helm's own; not in values.yaml
    assert len(written) > 70
    assert described == written
