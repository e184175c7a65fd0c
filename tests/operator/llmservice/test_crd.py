"""The CRD file equals the models, and each CEL rule agrees with its Python function."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise_operator.llmservice import crd
from lengthwise_operator.llmservice.fields import seconds
from lengthwise_operator.llmservice.rules import RULES, TRANSITION_RULES, broken_rules
from lengthwise_operator.llmservice.spec import LLMServiceSpec

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "crds" / "llmservices.lengthwise.dev.yaml"

#: Manifests that a rule refuses; test_crd_server.py sends them to an API server.
CASES: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("crd_cases.yaml").read_text())

MINIMAL: dict[str, Any] = CASES["minimal"]


def version() -> dict[str, Any]:
    found: dict[str, Any] = crd.build()["spec"]["versions"][0]
    return found


def spec_schema() -> dict[str, Any]:
    found: dict[str, Any] = version()["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def defaulted(value: Any, schema: dict[str, Any]) -> Any:
    """Fill in the defaults of the schema, recursively, as the API server does."""
    if isinstance(value, dict):
        out = copy.deepcopy(value)
        for name, child in schema.get("properties", {}).items():
            if name not in out and "default" in child:
                out[name] = copy.deepcopy(child["default"])
            if name in out:
                out[name] = defaulted(out[name], child)
        return out
    if isinstance(value, list):
        return [defaulted(item, schema.get("items", {})) for item in value]
    return value


@functools.cache
def cel_program(rule: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))


def cel_holds(rule: str, **variables: Any) -> bool:
    program = cel_program(rule)
    return bool(program.evaluate({k: celpy.json_to_cel(v) for k, v in variables.items()}))


def refused_by_cel(name: str, spec: dict[str, Any]) -> set[str]:
    whole = {"metadata": {"name": name}, "spec": spec}
    return {r.reason for r in RULES if not cel_holds(r.cel, self=whole if r.root else spec)}


def refused_by_python(name: str, spec: dict[str, Any]) -> set[str]:
    return {rule.reason for rule in broken_rules(name, LLMServiceSpec.model_validate(spec))}


def nodes(schema: dict[str, Any], path: str = "spec") -> list[tuple[str, dict[str, Any]]]:
    found = [(path, schema)]
    for name, child in schema.get("properties", {}).items():
        found += nodes(child, f"{path}.{name}")
    if "items" in schema:
        found += nodes(schema["items"], f"{path}[]")
    return found


def test_the_file_is_what_the_models_generate() -> None:
    # If this breaks: make generate
    assert yaml.safe_load(FILE.read_text()) == crd.build()


def test_every_field_has_a_type_and_a_description() -> None:
    schema = version()["schema"]["openAPIV3Schema"]
    for part in ("spec", "status"):
        for path, node in nodes(schema["properties"][part], part):
            typed = "type" in node or node.get("x-kubernetes-int-or-string")
            assert typed, path
            assert path.endswith("[]") or node.get("description"), path


def test_only_kubernetes_own_objects_keep_unknown_fields() -> None:
    kept = {
        path
        for path, node in nodes(spec_schema())
        if node.get("x-kubernetes-preserve-unknown-fields")
    }
    assert kept == {
        "spec.affinity",
        "spec.podTemplate.spec",
        "spec.engine.env[].valueFrom",
        "spec.engine.envFrom[]",
    }


def test_the_schema_uses_no_keyword_that_the_api_server_forbids() -> None:
    forbidden = {"$ref", "$defs", "title", "anyOf", "definitions", "opaque", "map_keys"}
    for path, node in nodes(version()["schema"]["openAPIV3Schema"], ""):
        assert not forbidden & set(node), path
        assert "properties" not in node or "additionalProperties" not in node, path


def test_the_defaults_of_the_schema_are_those_of_the_models() -> None:
    raw = defaulted(MINIMAL, spec_schema())
    assert LLMServiceSpec.model_validate(raw) == LLMServiceSpec.model_validate(MINIMAL)


def test_the_minimal_manifest_is_one_line_and_breaks_no_rule() -> None:
    raw = defaulted(MINIMAL, spec_schema())
    jsonschema.validate(raw, _json_schema(spec_schema()))
    assert refused_by_cel("m", raw) == set()


def _json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Convert a structural schema to JSON Schema, in which unknown fields are errors."""
    out = {k: v for k, v in schema.items() if not k.startswith("x-")}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in out:
        out["properties"] = {k: _json_schema(v) for k, v in out["properties"].items()}
        out["additionalProperties"] = False
    for word in ("items", "additionalProperties"):
        if isinstance(out.get(word), dict):
            out[word] = _json_schema(out[word])
    return out


@pytest.mark.parametrize("case", CASES["refused"], ids=lambda case: str(case["id"]))
def test_a_bad_manifest_is_refused_by_its_rule_alone(case: dict[str, Any]) -> None:
    name, raw = case.get("name", "m"), defaulted(MINIMAL | case["spec"], spec_schema())
    assert refused_by_cel(name, raw) == {case["rule"]}
    assert refused_by_python(name, raw) == {case["rule"]}


def test_every_rule_has_a_bad_example() -> None:
    assert {case["rule"] for case in CASES["refused"]} == {rule.reason for rule in RULES}


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(["m", "n" * 40, "n" * 41]),
    uri=st.sampled_from(["hf://a/b", "hf://a", "hf://-", "pvc://c", "pvc://C/x", "path:///m"]),
    revision=st.sampled_from(["", "main"]),
    replicas=st.sampled_from([None, 0, 3]),
    autoscaling=st.sampled_from([None, {}, {"minReplicas": 2, "maxReplicas": 1}]),
    tensor=st.integers(1, 8),
    gpus=st.sampled_from([None, 1, 8, "4"]),
    args=st.lists(
        st.sampled_from(
            ["--port", "--portable", "--enable-x", "--max_model_len=3", "8000", "-tp", "--ho\n"]
        ),
        max_size=3,
    ),
    surge=st.sampled_from([0, 1, "0%", "25%"]),
    ttl=st.sampled_from(["1s", "999ms", "1h30m", "800h"]),
)
def test_cel_and_python_agree(
    name: str,
    uri: str,
    revision: str,
    replicas: int | None,
    autoscaling: dict[str, int] | None,
    tensor: int,
    gpus: int | str | None,
    args: list[str],
    surge: int | str,
    ttl: str,
) -> None:
    raw: dict[str, Any] = {
        "model": {"uri": uri, "revision": revision},
        "parallelism": {"tensor": tensor},
        "engine": {"args": args},
        "rolloutStrategy": {"maxSurge": surge},
        "queue": {"requestTTL": ttl},
    }
    if replicas is not None:
        raw["replicas"] = replicas
    if autoscaling is not None:
        raw["autoscaling"] = autoscaling
    if gpus is not None:
        raw["resources"] = {"limits": {"nvidia.com/gpu": gpus}}
    raw = defaulted(raw, spec_schema())
    assert refused_by_cel(name, raw) == refused_by_python(name, raw)


@pytest.mark.parametrize("case", CASES["changes"], ids=lambda case: str(case["id"]))
def test_a_change_that_would_lose_jobs_or_weights_is_refused(case: dict[str, Any]) -> None:
    before, after = (defaulted(MINIMAL | case[c], spec_schema()) for c in ("old", "new"))
    broken = [
        message
        for _, rule, message in TRANSITION_RULES
        if not cel_holds(rule, self=after, oldSelf=before)
    ]
    want = case["refused"]
    assert len(broken) == (1 if want else 0)
    assert not want or broken[0].startswith(want)


def test_every_transition_rule_refuses_a_change() -> None:
    refused = [case["refused"] for case in CASES["changes"] if case["refused"]]
    for _, _, message in TRANSITION_RULES:
        assert any(message.startswith(field) for field in refused)


@pytest.mark.parametrize(
    ("text", "want"), [("10m", 600), ("1h30m", 5400), ("250ms", 0.25), ("1.5s", 1.5)]
)
def test_a_duration_is_read_in_seconds(text: str, want: float) -> None:
    assert seconds(text) == want


def test_a_text_that_is_no_duration_is_refused_with_an_example() -> None:
    with pytest.raises(ValueError, match="1h30m"):
        seconds("10 minutes")
