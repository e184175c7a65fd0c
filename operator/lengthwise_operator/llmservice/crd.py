"""Build the CustomResourceDefinition from the typed models.

`make generate` writes it to crds/ and to the chart's copy; `make generated-check` fails if one of
them is stale. The schema is structural: every field has a type, and unknown fields are dropped,
except below the few fields that are Kubernetes' own objects (affinity, podTemplate, valueFrom,
envFrom).
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from lengthwise_operator.llmservice.names import GROUP, KIND, PLURAL, VERSION
from lengthwise_operator.llmservice.rules import RULES, TRANSITION_RULES
from lengthwise_operator.llmservice.spec import LLMServiceSpec
from lengthwise_operator.llmservice.status import LLMServiceStatus

#: Keywords of JSON Schema that a structural schema may have, too.
_KEPT = (
    "description",
    "type",
    "format",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "required",
)

_READY = '.status.conditions[?(@.type=="Ready")]'
_COLUMNS: tuple[dict[str, Any], ...] = (
    {"name": "Model", "type": "string", "jsonPath": ".spec.model.uri"},
    {"name": "Ready", "type": "string", "jsonPath": f"{_READY}.status"},
    {"name": "Reason", "type": "string", "jsonPath": f"{_READY}.reason"},
    {
        "name": "Replicas",
        "type": "integer",
        "jsonPath": ".status.readyReplicas",
        "description": "Engine pods that are ready.",
    },
    {
        "name": "Queued",
        "type": "integer",
        "jsonPath": ".status.queue.depth",
        "description": "Jobs that wait; the number is at most some seconds old.",
    },
    {
        "name": "Backlog",
        "type": "number",
        "jsonPath": ".status.queue.backlogSeconds",
        "description": "Predicted time to serve the waiting jobs, s.",
    },
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {"name": "URL", "type": "string", "jsonPath": ".status.url", "priority": 1},
    {
        "name": "Message",
        "type": "string",
        "jsonPath": f"{_READY}.message",
        "priority": 1,
    },
)


def structural(model: type[BaseModel]) -> dict[str, Any]:
    """Convert a model to a structural schema of Kubernetes."""
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}))


def _convert(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    # Keywords beside a $ref (description, default) are about the field and take precedence.
    if "$ref" in node:
        node = {**definitions[node["$ref"].rsplit("/", 1)[1]], **node}
    if node.pop("opaque", False):
        return {key: node[key] for key in ("description",) if key in node} | {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
        }
    if "anyOf" in node:
        node = _one_of(node)
        if "$ref" in node:
            return _convert(node, definitions)
        if node.get("opaque"):
            return _convert(node, definitions)
    out = {key: node[key] for key in _KEPT if key in node}
    # null means "left out", which a structural schema without `nullable` already expresses. ""
    # means the same, and Kubernetes 1.20 reads it as the string "null" and refuses it.
    if node.get("default") not in (None, ""):
        out["default"] = _plain(node["default"])
    if node.get("x-kubernetes-int-or-string"):
        out["x-kubernetes-int-or-string"] = True
    if "items" in node:
        out["items"] = _convert(node["items"], definitions)
    if "map_keys" in node:
        out["x-kubernetes-list-type"] = "map"
        out["x-kubernetes-list-map-keys"] = node["map_keys"]
    if "properties" in node:
        out["properties"] = {
            name: _convert(dict(child), definitions) for name, child in node["properties"].items()
        }
    if isinstance(node.get("additionalProperties"), dict):
        out["additionalProperties"] = _convert(dict(node["additionalProperties"]), definitions)
    return out


def _one_of(node: dict[str, Any]) -> dict[str, Any]:
    """Resolve a union: `X | None` is X, and `int | str` is Kubernetes' IntOrString.

    Raises:
        ValueError: The union is neither.
    """
    options = [option for option in node["anyOf"] if option.get("type") != "null"]
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    if len(options) == 1:
        return {**options[0], **rest}
    if [option.get("type") for option in options] == ["integer", "string"]:
        text = {key: options[1][key] for key in ("pattern", "maxLength") if key in options[1]}
        return {**text, **rest, "x-kubernetes-int-or-string": True}
    raise ValueError(f"no structural schema for {node!r}")


def _defaults_of_parts(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Give each optional part the default {}, so that the defaults of its own fields apply."""
    for name, field in model.model_fields.items():
        child = schema["properties"][field.alias or name]
        part = next((a for a in get_args(field.annotation) if a is not NoneType), field.annotation)
        if isinstance(part, type) and issubclass(part, BaseModel):
            if field.default_factory is not None and "properties" in child:
                child["default"] = {}
            for level in (child, child.get("items", {})):
                if "properties" in level:
                    _defaults_of_parts(level, part)
        if field.default_factory is not None and "default" not in child:
            made = field.get_default(call_default_factory=True)
            if made:
                child["default"] = _plain(made)
            elif child.get("type") == "array":
                child["default"] = []
            elif "additionalProperties" in child:
                child["default"] = {}


def _plain(value: Any) -> Any:
    """Convert a default to what YAML shows: objects as dicts, whole numbers without a fraction."""
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True, exclude_none=True)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return [_plain(item) for item in value] if isinstance(value, list) else value


def build() -> dict[str, Any]:
    """Build the whole CustomResourceDefinition."""
    spec, status = structural(LLMServiceSpec), structural(LLMServiceStatus)
    _defaults_of_parts(spec, LLMServiceSpec)
    for child in ("replicas", "readyReplicas"):
        status["properties"][child]["default"] = 0
    # An API server before 1.28 drops fieldPath and reason; then a message names only `spec`.
    spec["x-kubernetes-validations"] = [
        {**_validation(rule.cel, rule.message), "fieldPath": f".{rule.field}"}
        for rule in RULES
        if not rule.root
    ] + [
        {**_validation(cel, message), "fieldPath": f".{field}"}
        for field, cel, message in TRANSITION_RULES
    ]
    root = {
        "type": "object",
        "description": "One LLM, served short answers first: a queue in front of vLLM replicas "
        "whose number can follow the predicted backlog.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
            "kind": {"type": "string", "description": KIND},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": [
            _validation(rule.cel, rule.message) for rule in RULES if rule.root
        ],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{PLURAL}.{GROUP}",
            "labels": {"app.kubernetes.io/part-of": "lengthwise"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": "llmservice",
                "shortNames": ["lsvc"],
                "categories": ["lengthwise"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": root},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": list(_COLUMNS),
                }
            ],
        },
    }


def _validation(cel: str, message: str) -> dict[str, str]:
    return {"rule": cel, "message": message, "reason": "FieldValueInvalid"}


class _NoAliases(yaml.SafeDumper):
    """Writes a repeated value out each time."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def text() -> str:
    """Write the CRD as YAML, with a header that names its source."""
    header = (
        "# Written by `make generate` from operator/lengthwise_operator/llmservice. Do not edit:\n"
        "# change the models there.\n"
    )
    return header + yaml.dump(build(), Dumper=_NoAliases, sort_keys=False, width=100)


def main(arguments: list[str]) -> int:
    """Write the CRD to each FILE; with --check, compare instead and change nothing.

    Returns:
        0; or 1 with --check if a file differs, after printing its path.
    """
    check = arguments[:1] == ["--check"]
    current, stale = text(), []
    for path in map(Path, arguments[1:] if check else arguments):
        if check:
            if not path.is_file() or path.read_text(encoding="utf-8") != current:
                stale.append(path)
        else:
            path.write_text(current, encoding="utf-8")
    for path in stale:
        sys.stderr.write(f"{path} is stale: run `make generate`\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
