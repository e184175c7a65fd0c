"""The CustomResourceDefinition, written from the typed models.

`python -m lengthwise_operator.llmservice.crd > crds/llmservices.lengthwise.dev.yaml`; a test holds the file
equal to this. The schema is structural: every field typed, nothing unknown kept, except below the
few fields that are Kubernetes' own objects (affinity, podTemplate, valueFrom, envFrom).
"""

from __future__ import annotations

import sys
from types import NoneType
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from lengthwise_operator.llmservice.rules import RULES, TRANSITION_RULES
from lengthwise_operator.llmservice.spec import LLMServiceSpec
from lengthwise_operator.llmservice.status import LLMServiceStatus

GROUP = "lengthwise.dev"
VERSION = "v1alpha1"
PLURAL = "llmservices"
KIND = "LLMService"

#: JSON Schema's words that a structural schema has, too.
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
        "description": "Engine pods that answer.",
    },
    {
        "name": "Queued",
        "type": "integer",
        "jsonPath": ".status.queue.depth",
        "description": "Jobs waiting, at most some seconds old.",
    },
    {
        "name": "Backlog",
        "type": "number",
        "jsonPath": ".status.queue.backlogSeconds",
        "description": "Predicted time to serve what waits, s.",
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
    """A model as a structural schema of Kubernetes."""
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}))


def _convert(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    # What stands beside a $ref (description, default) is about the field and wins.
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
    # null means "left out" here, and a structural schema without `nullable` says just that. So
    # does "", which Kubernetes 1.20 moreover reads as the string "null" and refuses.
    if node.get("default") not in (None, ""):
        out["default"] = node["default"]
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
    """`X | None` is X, `int | str` is Kubernetes' IntOrString; nothing else is written here."""
    options = [option for option in node["anyOf"] if option.get("type") != "null"]
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    if len(options) == 1:
        return {**options[0], **rest}
    if [option.get("type") for option in options] == ["integer", "string"]:
        return {**rest, "x-kubernetes-int-or-string": True}
    raise ValueError(f"no structural schema for {node!r}")


def _defaults_of_parts(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Give each part that may be left out the default {}, so that its own defaults apply."""
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
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True, exclude_none=True)
    return [_plain(item) for item in value] if isinstance(value, list) else value


def build() -> dict[str, Any]:
    """The whole CustomResourceDefinition."""
    spec, status = structural(LLMServiceSpec), structural(LLMServiceStatus)
    _defaults_of_parts(spec, LLMServiceSpec)
    for child in ("replicas", "readyReplicas"):
        status["properties"][child]["default"] = 0
    spec["x-kubernetes-validations"] = [
        {"rule": rule.cel, "message": rule.message} for rule in RULES if not rule.root
    ] + [{"rule": cel, "message": message} for cel, message in TRANSITION_RULES]
    root = {
        "type": "object",
        "description": "One LLM, served short answers first: a queue in front of vLLM replicas "
        "that follow the predicted work.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
            "kind": {"type": "string", "description": KIND},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": [
            {"rule": rule.cel, "message": rule.message} for rule in RULES if rule.root
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


class _Block(yaml.SafeDumper):
    """Long texts as blocks, no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def main() -> None:
    """Print the CRD as YAML."""
    sys.stdout.write(
        "# Written by `python -m lengthwise_operator.llmservice.crd` from spec.py, status.py and rules.py of\n"
        "# operator/lengthwise_operator. Do not edit: change those.\n"
    )
    yaml.dump(build(), sys.stdout, Dumper=_Block, sort_keys=False, width=100)


if __name__ == "__main__":
    main()
