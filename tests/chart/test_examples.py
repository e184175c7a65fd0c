"""The manifests of examples/ fit the schema and break no rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from lengthwise_operator.children.all import all_children
from lengthwise_operator.installation import Apis
from lengthwise_operator.llmservice.rules import broken_rules
from lengthwise_operator.llmservice.service import llmservice_of
from lengthwise_operator.llmservice.spec import LLMServiceSpec
from lengthwise_operator.settings import OperatorSettings

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))

each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def manifest(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text())
    assert isinstance(found, dict)
    return found


def test_there_is_an_example_for_each_way_to_serve() -> None:
    assert {path.stem for path in EXAMPLES} == {
        *("cpu-test-model", "one-gpu", "tensor-parallel", "scale-to-zero"),
        *("bring-your-own-predictor", "existing-endpoint", "kueue"),
    }


@each_example
def test_an_example_fits_the_crd_and_has_no_unknown_field(path: Path) -> None:
    """The API server drops unknown fields silently; here they are an error."""
    (definition,) = (ROOT / "crds").glob("*.yaml")
    crd = yaml.safe_load(definition.read_text())
    (version,) = crd["spec"]["versions"]
    example = manifest(path)
    assert example["apiVersion"] == f"{crd['spec']['group']}/{version['name']}"
    assert example["kind"] == crd["spec"]["names"]["kind"]
    jsonschema.validate(example["spec"], strict(version["schema"]["openAPIV3Schema"])["spec"])


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the properties of a schema, closed to unknown fields at every depth."""

    def close(part: Any) -> Any:
        if isinstance(part, list):
            return [close(item) for item in part]
        if not isinstance(part, dict):
            return part
        closed = {key: close(value) for key, value in part.items()}
        if isinstance(part.get("properties"), dict) and part.get("type") == "object":
            closed.setdefault("additionalProperties", False)
        if part.get("x-kubernetes-int-or-string"):
            closed["type"] = ["integer", "string"]
        return closed

    properties = close(schema)["properties"]
    assert isinstance(properties, dict)
    return properties


@each_example
def test_an_example_breaks_no_rule(path: Path) -> None:
    example = manifest(path)
    spec = LLMServiceSpec.model_validate(example["spec"])
    assert broken_rules(example["metadata"]["name"], spec) == []


@each_example
@pytest.mark.parametrize("version", ["1.25", "1.37"])
def test_the_children_of_an_example_fit_the_schema_of_kubernetes(path: Path, version: str) -> None:
    example = manifest(path)
    stamps = {"namespace": "llm", "uid": "u", "generation": 1}
    stamps["creationTimestamp"] = "2026-01-01T00:00:00Z"
    spec = LLMServiceSpec.model_validate(example["spec"])
    service = llmservice_of({"metadata": {**example["metadata"], **stamps}}, spec)
    settings = OperatorSettings.model_validate(
        {"queue_url": "http://q", "metrics_namespace": "monitoring"}
    )
    apis = Apis(pdb_version="policy/v1", pod_monitors=False)
    made = all_children(service, settings.installation(), apis, 1)
    assert len(made) >= 3
    for child in made:
        kubernetes_validate.validate(child, version, strict=True)


@each_example
def test_an_example_begins_with_a_comment_about_its_purpose(path: Path) -> None:
    assert path.read_text().startswith("# ")
