"""Reads the chunks of an engine's stream, and merges their deltas. Pure."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

#: Text fields that an engine sends whole, and perhaps more than once.
_NOT_CONTINUED = frozenset({"role", "id", "type"})


def parse_chunk(data: bytes) -> dict[str, Any] | None:
    """Parse a chunk; None: it is not a JSON object."""
    try:
        value = from_json(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a JSON array; none if the value is not an array."""
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def index_of(choice: dict[str, Any]) -> int:
    """Return the index of a choice; engines may leave it out if there is only one choice."""
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def merge_delta(into: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add one delta: texts are appended, objects merged, items of arrays matched by `index`."""
    for name, value in delta.items():
        known = into.get(name)
        if value is None:
            into.setdefault(name, None)
        elif isinstance(value, list):
            into[name] = _merged_items(known if isinstance(known, list) else [], value)
        elif isinstance(value, dict):
            merged = known if isinstance(known, dict) else {}
            merge_delta(merged, value)
            into[name] = merged
        elif isinstance(value, str) and isinstance(known, str) and name not in _NOT_CONTINUED:
            into[name] = known + value
        else:
            into[name] = value


def _merged_items(known: list[Any], items: list[Any]) -> list[Any]:
    for item in items:
        index = item.get("index") if isinstance(item, dict) else None
        if not isinstance(index, int):
            known.append(item)
            continue
        same = next((k for k in known if isinstance(k, dict) and k.get("index") == index), None)
        if same is None:
            same = {"index": index}
            known.append(same)
        merge_delta(same, {k: v for k, v in item.items() if k != "index"})
    return known
