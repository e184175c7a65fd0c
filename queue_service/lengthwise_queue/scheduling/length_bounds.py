"""What a request makes certain about the length of its answer. Pure.

Some fields fix or bound a length, whatever the predictor says: `ignore_eos`, `min_tokens`, a choice
of texts, a schema or a pattern that allows only short answers. The endpoints read them from a body,
and `pricing` uses them. The names are those of vLLM, SGLang and llama.cpp.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Bytes of a token, of short texts: fewer than the 4 of English prose, so that the longest choice
#: is not priced too low.
_BYTES_PER_TOKEN = 3

#: The longest pattern, the deepest schema and the most members that are read; a request may carry
#: megabytes.
_LONGEST_PATTERN, _DEEPEST, _MOST_MEMBERS = 1000, 8, 1000

#: A pattern or schema that allows more tokens than this bounds nothing.
_UNBOUNDED = 100_000

_patterns: Any = importlib.import_module("re._parser")


@dataclass(frozen=True, kw_only=True)
class LengthBounds:
    """What is certain about the length of one answer, tokens.

    Attributes:
        least: It has at least so many.
        most: It has at most so many, apart from the request's cap; None: nothing bounds it.
        runs_to_cap: It ends only at the request's cap, or where the context ends.
    """

    least: int = 0
    most: int | None = None
    runs_to_cap: bool = False

    @property
    def is_natural(self) -> bool:
        """Whether the LLM alone ends the answer, so that its length says what the text implies."""
        return self == NATURAL


NATURAL = LengthBounds()


def length_bounds(body: Mapping[str, Any]) -> LengthBounds:
    """Read the bounds from a request's body; fields of the wrong kind count as absent."""
    most = None if _thinks(body) else _most_tokens(body)
    stops = any(body.get(name) for name in ("stop", "stop_token_ids"))
    return LengthBounds(
        least=_count(body.get("min_tokens")),
        most=most,
        runs_to_cap=body.get("ignore_eos") is True and not stops and most is None,
    )


def _count(value: Any) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 1 < value < 2**31 else 0


def _thinks(body: Mapping[str, Any]) -> bool:
    """Whether the LLM is asked to think first: then only the end of its answer is bounded."""
    template = body.get("chat_template_kwargs")
    asked = [body.get("reasoning_effort") not in (None, "none")]
    if isinstance(template, Mapping):
        asked += [template.get(name) is True for name in ("enable_thinking", "thinking")]
    return any(asked)


def _most_tokens(body: Mapping[str, Any]) -> int | None:
    sizes = [size for size in map(_most_bytes, _constraints(body)) if size is not None]
    if not sizes:
        return None
    tokens = -(-min(sizes) // _BYTES_PER_TOKEN) + 1  # and the one that ends the answer
    return tokens if tokens < _UNBOUNDED else None


def _constraints(body: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """List what the answer must match: (kind, value)."""
    found = [(name.removeprefix("guided_"), body.get(name)) for name in _FIELDS]
    structured = body.get("structured_outputs")
    if isinstance(structured, Mapping):
        found += [(name, structured.get(name)) for name in ("choice", "regex", "json")]
    wanted = body.get("response_format")
    if isinstance(wanted, Mapping):
        schema = wanted.get("json_schema")
        if isinstance(schema, Mapping):
            found.append(("json", schema.get("schema")))
        if wanted.get("type") == "regex":
            found.append(("regex", wanted.get("value")))
    return [(kind, value) for kind, value in found if value is not None]


_FIELDS = ("guided_choice", "choice", "guided_regex", "regex", "guided_json", "json_schema")


def _most_bytes(constraint: tuple[str, Any]) -> int | None:
    kind, value = constraint
    if kind == "choice":
        return _of_choice(value)
    if kind == "regex":
        return _of_pattern(value)
    if isinstance(value, str):
        try:
            value = json.loads(value) if len(value) <= _LONGEST_PATTERN * 10 else None
        except ValueError:
            return None
    return _of_schema(value, _DEEPEST)


def _of_choice(value: Any) -> int | None:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        return None
    return max(len(one.encode(errors="replace")) for one in value)


def _of_pattern(value: Any) -> int | None:
    if not isinstance(value, str) or len(value) > _LONGEST_PATTERN:
        return None
    try:
        _, most = _patterns.parse(value).getwidth()
    except (re.error, RecursionError, OverflowError, MemoryError):
        return None
    return int(most) if most < _UNBOUNDED * _BYTES_PER_TOKEN else None


def _of_schema(schema: Any, depth: int) -> int | None:
    """Return the longest JSON text that a schema allows, bytes, without optional spaces."""
    if not isinstance(schema, Mapping) or depth == 0:
        return None
    if "const" in schema:
        return _size(schema["const"])
    if isinstance(values := schema.get("enum"), list) and 0 < len(values) <= _MOST_MEMBERS:
        return max(map(_size, values))
    options = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(options, list) and 0 < len(options) <= _MOST_MEMBERS:
        return _largest([_of_schema(option, depth - 1) for option in options])
    match schema.get("type"):
        case "boolean":
            return 5
        case "null":
            return 4
        case "string" if isinstance(longest := schema.get("maxLength"), int):
            return longest + 2
        case "array" if isinstance(items := schema.get("maxItems"), int):
            one = _of_schema(schema.get("items"), depth - 1)
            return None if one is None else 2 + max(items, 0) * (one + 2)
        case "object":
            return _of_object(schema, depth)
    return None


def _of_object(schema: Mapping[str, Any], depth: int) -> int | None:
    members = schema.get("properties")
    if not isinstance(members, Mapping) or schema.get("additionalProperties") is not False:
        return None
    if len(members) > _MOST_MEMBERS:
        return None
    sizes = [_of_schema(one, depth - 1) for one in members.values()]
    total = 2
    for name, size in zip(members, sizes, strict=True):
        if size is None:
            return None
        total += _size(name) + size + 4  # a colon, a comma and their spaces
    return total


def _largest(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return max(known) if len(known) == len(sizes) else None


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
