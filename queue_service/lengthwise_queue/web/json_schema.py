"""JSON schemas of pydantic models: embedded in the OpenAPI document, and put into words. Pure."""

from __future__ import annotations

from typing import Any

_PLURAL = {"string": "strings", "integer": "integers", "array": "arrays", "object": "objects"}


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Resolve the `$defs` of a JSON schema: its references would be wrong once it is embedded."""
    defs = schema.get("$defs", {})

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                name = str(node["$ref"]).rsplit("/", 1)[1]
                return walk(defs[name]) | {k: v for k, v in node.items() if k != "$ref"}
            return {key: walk(value) for key, value in node.items()}
        return [walk(item) for item in node] if isinstance(node, list) else node

    return dict(walk({key: value for key, value in schema.items() if key != "$defs"}))


def in_words(schema: dict[str, Any]) -> str:
    """Describe what a JSON schema allows, in words, without null."""
    if "anyOf" in schema:
        kinds = [in_words(member) for member in schema["anyOf"] if member.get("type") != "null"]
        return " or ".join(kinds)
    low, high = schema.get("minimum"), schema.get("maximum")
    match schema.get("type"):
        case "boolean":
            return "true or false"
        case "string" if "maxLength" in schema:
            return f"a string of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
        case "string":
            return "a non-empty string" if "minLength" in schema else "a string"
        case "integer" | "number" as kind:
            noun = "an integer" if kind == "integer" else "a number"
            if high is not None:
                return f"{noun} from {low} to {high}"
            return noun if low is None else f"{noun} of at least {low}"
        case "array":
            items = _PLURAL.get(schema["items"].get("type"), "values")
            return f"{'a non-empty' if schema.get('minItems') else 'an'} array of {items}"
    return "an object"
