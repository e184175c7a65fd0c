"""Puts the chunks of a streamed answer together into the complete OpenAI response. Pure.

Called for `GET /v1/jobs/{id}`, also while the job is running: then for what there is of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import from_json

from lengthwise_contract.jobs import EndpointPath
from lengthwise_store.jobs import EntryKind, OutputEntry


def last_attempt(entries: Iterable[OutputEntry]) -> list[bytes]:
    """The chunks that count: those of the last attempt."""
    chunks: list[bytes] = []
    for entry in entries:
        match entry.kind:
            case EntryKind.ATTEMPT:
                chunks = []
            case EntryKind.CHUNK:
                chunks.append(entry.data)
    return chunks


def assemble(
    endpoint: EndpointPath,
    chunks: Sequence[bytes],
    *,
    prompt_tokens: int | None = None,
    output_tokens: int | None = None,
) -> dict[str, Any] | None:
    """One OpenAI response from the chunks of one attempt.

    Args:
        endpoint: Which kind of response.
        chunks: JSON texts, in order: events of a stream, or a single whole response, which is
            given back as it is. A damaged chunk is left out.
        prompt_tokens: From the job's record, for `usage` where the chunks have none.
        output_tokens: Likewise.

    Returns:
        The response, or None while there is nothing.
    """
    parsed = [chunk for chunk in map(_parse, chunks) if chunk is not None]
    if not parsed:
        return None
    if len(parsed) == 1 and not _is_delta(parsed[0]):
        return parsed[0]
    chat = endpoint == "/v1/chat/completions"
    response: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in parsed:
        for name, value in chunk.items():
            if name == "choices":
                for part in _objects(value):
                    _add_choice(choices, part, chat)
            elif value is not None or name not in response:
                # `id`, `created`, `model` are the same in all; of the rest the last word counts.
                response[name] = value
    response["object"] = "chat.completion" if chat else "text_completion"
    response["choices"] = [_finished(choices[i], chat) for i in sorted(choices)]
    if response.get("usage") is None:
        response["usage"] = _usage(prompt_tokens, output_tokens)
    return response


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        value = from_json(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _is_delta(chunk: dict[str, Any]) -> bool:
    return any("delta" in choice for choice in _objects(chunk.get("choices")))


def _objects(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _add_choice(choices: dict[int, dict[str, Any]], part: dict[str, Any], chat: bool) -> None:
    index = part.get("index")
    index = index if isinstance(index, int) else 0
    choice = choices.setdefault(index, {"index": index})
    for name, value in part.items():
        match name:
            case "index":
                continue
            case "delta" if chat:
                if isinstance(value, dict):
                    _add_fields(choice.setdefault("message", {}), value)
            case "text":
                choice["text"] = choice.get("text", "") + (value or "")
            case "logprobs":
                choice["logprobs"] = _joined_logprobs(choice.get("logprobs"), value)
            case _:
                if value is not None or name not in choice:
                    choice[name] = value


def _add_fields(into: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add one delta: texts are continued, objects filled in, list items matched by `index`."""
    for name, value in delta.items():
        known = into.get(name)
        if value is None:
            into.setdefault(name, None)
        elif isinstance(value, list):
            into[name] = _joined_items(known if isinstance(known, list) else [], value)
        elif isinstance(value, dict):
            filled = known if isinstance(known, dict) else {}
            _add_fields(filled, value)
            into[name] = filled
        elif isinstance(value, str) and isinstance(known, str) and name not in _NOT_CONTINUED:
            into[name] = known + value
        else:
            into[name] = value


#: Text fields that are given whole, and perhaps more than once.
_NOT_CONTINUED = frozenset({"role", "id", "type"})


def _joined_items(known: list[Any], items: list[Any]) -> list[Any]:
    for item in items:
        index = item.get("index") if isinstance(item, dict) else None
        if not isinstance(index, int):
            known.append(item)
            continue
        same = next((k for k in known if isinstance(k, dict) and k.get("index") == index), None)
        if same is None:
            same = {"index": index}
            known.append(same)
        _add_fields(same, {k: v for k, v in item.items() if k != "index"})
    return known


def _joined_logprobs(known: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        return known
    joined = dict(known) if isinstance(known, dict) else {}
    for name, items in value.items():
        before = joined.get(name)
        both = isinstance(before, list) and isinstance(items, list)
        if both:
            joined[name] = before + items
        elif items is not None or name not in joined:
            joined[name] = items
    return joined


def _finished(choice: dict[str, Any], chat: bool) -> dict[str, Any]:
    choice.setdefault("finish_reason", None)
    choice.setdefault("logprobs", None)
    if chat:
        message = {"role": "assistant", "content": None} | choice.get("message", {})
        for call in _objects(message.get("tool_calls")):
            call.pop("index", None)  # only deltas have it
        choice["message"] = message
    else:
        choice.setdefault("text", "")
    return choice


def _usage(prompt_tokens: int | None, output_tokens: int | None) -> dict[str, int] | None:
    if prompt_tokens is None or output_tokens is None:
        return None
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
    }
