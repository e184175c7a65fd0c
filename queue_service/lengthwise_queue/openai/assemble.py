"""Assembles the chunks of a streamed answer into the complete OpenAI response. Pure.

Called for `GET /v1/jobs/{id}`, also while the job runs: then for the part of the answer so far.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lengthwise_queue.openai.chunks import index_of, objects, parse_chunk
from lengthwise_queue.openai.endpoint import Endpoint
from lengthwise_store.jobs import EntryKind, OutputEntry


def last_attempt(entries: Iterable[OutputEntry]) -> list[bytes]:
    """Return the chunks of the last attempt; those of earlier attempts do not count."""
    chunks: list[bytes] = []
    for entry in entries:
        match entry.kind:
            case EntryKind.ATTEMPT:
                chunks = []
            case EntryKind.CHUNK:
                chunks.append(entry.data)
    return chunks


def assemble(
    endpoint: Endpoint[Any],
    chunks: Sequence[bytes],
    *,
    prompt_tokens: int | None = None,
    output_tokens: int | None = None,
    usage_details: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Make one OpenAI response of the chunks of one attempt.

    Args:
        endpoint: The endpoint that the job asked.
        chunks: JSON texts, in order: events of a stream, or a single complete response, which is
            returned unchanged. A damaged chunk is left out.
        prompt_tokens: From the job's record, for `usage` if the chunks have none.
        output_tokens: Likewise.
        usage_details: Likewise; what the engine reported beside the totals.

    Returns:
        The response, or None if there is no chunk yet.
    """
    parsed = [chunk for chunk in map(parse_chunk, chunks) if chunk is not None]
    if not parsed:
        return None
    if len(parsed) == 1 and not any(map(endpoint.is_partial, objects(parsed[0].get("choices")))):
        return parsed[0]
    response: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in parsed:
        for name, value in chunk.items():
            if name == "choices":
                for part in objects(value):
                    _add_part(endpoint, choices, part)
            elif value is not None or name not in response:
                # `id`, `created` and `model` are the same in all chunks; of others the last counts.
                response[name] = value
    response["object"] = endpoint.object_name
    response["choices"] = [choices[index] for index in sorted(choices)]
    for choice in response["choices"]:
        choice.setdefault("finish_reason", None)
        choice.setdefault("logprobs", None)
        endpoint.complete(choice)
    if response.get("usage") is None:
        response["usage"] = usage_of(prompt_tokens, output_tokens, usage_details)
    return response


def _add_part(
    endpoint: Endpoint[Any], choices: dict[int, dict[str, Any]], part: dict[str, Any]
) -> None:
    index = index_of(part)
    choice = choices.setdefault(index, {"index": index})
    for name, value in part.items():
        match name:
            case "index":
                continue
            case endpoint.delta_field:
                endpoint.add_delta(choice, value)
            case "logprobs":
                choice["logprobs"] = _merged_logprobs(choice.get("logprobs"), value)
            case _:
                if value is not None or name not in choice:
                    choice[name] = value


def _merged_logprobs(known: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        return known
    merged = dict(known) if isinstance(known, dict) else {}
    for name, items in value.items():
        before = merged.get(name)
        if isinstance(before, list) and isinstance(items, list):
            merged[name] = before + items
        elif items is not None or name not in merged:
            merged[name] = items
    return merged


def usage_of(
    prompt_tokens: int | None, output_tokens: int | None, details: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Return OpenAI's `usage` from a job's record; None: its tokens are not known."""
    if prompt_tokens is None or output_tokens is None:
        return None
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        **(details or {}),
    }
