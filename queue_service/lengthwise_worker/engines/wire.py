"""Parse and rewrite the parts of the OpenAI wire format that a worker must understand. Pure.

Bodies pass through as bytes. A body is parsed to read it, and re-encoded only if the client already
set a key that the worker sets. Called by openai_http.py, vllm.py and answer_reader.py.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from pydantic_core import from_json

from lengthwise_worker.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineRefused,
    EngineUnavailable,
)

#: `"usage": null` with its comma. Matching raw bytes is safe: inside a JSON string the quotes would
#: be escaped.
_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,\s*')

#: Statuses of an engine that is overloaded, and of one that rejects our key. 529 is not registered;
#: some hosted engines use it.
_BUSY, _UNAVAILABLE = frozenset({429, 503, 529}), frozenset({401, 403})

#: What the name of an error says about its status, when the error has no status.
_STATUS_OF_WORD = (
    ("invalid_request", 400),
    ("badrequest", 400),
    ("bad_request", 400),
    ("context_length", 400),
    ("rate_limit", 429),
    ("overloaded", 503),
)

#: Client errors that may succeed on another try: request timeout, conflict, too early.
_TRANSIENT = frozenset({408, 409, 425})


#: Longest text of an engine's error that is kept, when it is no JSON, characters.
_LONGEST_REASON = 1000

#: Counts that have columns of their own; the rest of a `usage` is its details.
_TOTALS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})

#: Longest details that are kept, characters of JSON.
_LONGEST_DETAILS = 2000


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """A request as the engine gets it.

    `added`: the fields that the worker set and the client did not. `added_usage`: the worker asks
    for the token counts, and the client did not. `choices`: how many it asks for.
    """

    body: bytes
    stream: bool
    added: frozenset[str] = frozenset()
    added_usage: bool
    choices: int = 1


def engine_request(
    body: bytes, extra: dict[str, Any] | None = None, *, without: frozenset[str] = frozenset()
) -> EngineRequest:
    """Make the engine's request from a job's body.

    Args:
        body: The job's body, a JSON object, as the client sent it.
        extra: Keys that the worker sets. They replace the client's.
        without: Fields that the engine refuses; the worker does not set them.

    Raises:
        EngineRefused: The body is not a JSON object.
    """
    try:
        fields = json.loads(body)
    except ValueError as exc:
        raise EngineRefused(f"The body is not JSON: {exc}", status=400) from exc
    if not isinstance(fields, dict):
        raise EngineRefused(
            f"The body must be a JSON object, not {type(fields).__name__}", status=400
        )
    add = {name: value for name, value in (extra or {}).items() if name not in without}
    stream = fields.get("stream") is True
    options = fields.get("stream_options")
    requested = isinstance(options, dict) and options.get("include_usage") is True
    added_usage = stream and not requested and "stream_options" not in without
    if added_usage:
        add["stream_options"] = {"include_usage": True}
        if isinstance(options, dict):
            # If both are set, vLLM sends usage with every piece.
            kept = {k: v for k, v in options.items() if k != "continuous_usage_stats"}
            add["stream_options"] = kept | {"include_usage": True}
    return EngineRequest(
        body=_with(body, fields, add),
        stream=stream,
        added=frozenset(add),
        added_usage=added_usage,
        choices=_choices(fields),
    )


def _choices(fields: dict[str, Any]) -> int:
    """Return how many choices a request asks for: `n` for each of its prompts."""
    n, prompts = fields.get("n"), fields.get("prompt")
    many = isinstance(prompts, list) and bool(prompts) and not isinstance(prompts[0], int)
    return max(1, n if isinstance(n, int) else 1) * (len(prompts) if many else 1)  # type: ignore[arg-type]


def _with(body: bytes, fields: dict[str, Any], add: dict[str, Any]) -> bytes:
    """Add keys to a body. The client's bytes are kept unless a key must be replaced."""
    if not add:
        return body
    if not fields or not add.keys().isdisjoint(fields):
        return json.dumps(fields | add, separators=(",", ":")).encode()
    tail = json.dumps(add, separators=(",", ":")).encode()
    return body[: body.rindex(b"}")] + b"," + tail[1:]


@dataclass
class Usage:
    """The token counts that an engine reported; None: not yet.

    `details_json`: what it reported beside the totals, such as `prompt_tokens_details`, as JSON.
    """

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    details_json: str | None = None

    def read(self, body: Any) -> None:
        """Store the counts of a response or event that has `usage`."""
        usage = body.get("usage") if isinstance(body, dict) else None
        if not isinstance(usage, dict):
            return
        self.prompt_tokens = _count(usage.get("prompt_tokens"), self.prompt_tokens)
        self.output_tokens = _count(usage.get("completion_tokens"), self.output_tokens)
        details = {k: v for k, v in usage.items() if k not in _TOTALS and v not in (None, {})}
        if details and len(text := without_nan(_dumped(details))) <= _LONGEST_DETAILS:
            self.details_json = text.decode()


def _count(value: Any, before: int | None) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 2**53 else before


def shown_event(
    data: bytes, event: dict[str, Any], usage: Usage, *, added_usage: bool
) -> bytes | None:
    """Return an event as the client gets it; None: the client does not get it.

    Args:
        data: The event's JSON.
        event: The same, parsed.
        usage: Stores the engine's counts, if the event has them.
        added_usage: Whether the worker asked for the counts, and the client did not.
    """
    if "usage" in event:
        usage.read(event)
        if added_usage and isinstance(event["usage"], dict) and not event.get("choices"):
            return None
        if added_usage and event["usage"] is None:
            data = _NULL_USAGE.sub(b"", data)
    return without_nan(data)


def as_events(answer: dict[str, Any], *, with_usage: bool) -> list[bytes]:
    """Return an answer that came whole, for a request for a stream, as the events of a stream."""
    choices = []
    for choice in answer["choices"]:
        message = choice.get("message")
        part = {name: value for name, value in choice.items() if name != "message"}
        if isinstance(message, dict):
            part["delta"] = message | _numbered(message.get("tool_calls"))
        choices.append(part)
    head = {k: v for k, v in answer.items() if k not in ("choices", "usage")}
    if head.get("object") == "chat.completion":
        head["object"] = "chat.completion.chunk"
    events = [head | {"choices": choices}]
    if with_usage and isinstance(answer.get("usage"), dict):
        events.append(head | {"choices": [], "usage": answer["usage"]})
    return [without_nan(_dumped(event)) for event in events]


def _numbered(calls: Any) -> dict[str, Any]:
    """Return the `tool_calls` of a message as a stream has them: each with its `index`."""
    if not isinstance(calls, list):
        return {}
    numbered = [{"index": i} | c if isinstance(c, dict) else c for i, c in enumerate(calls)]
    return {"tool_calls": numbered}


def without_nan(data: bytes) -> bytes:
    """Return JSON without NaN and infinities, which are not JSON: null takes their place."""
    if b"NaN" not in data and b"Infinity" not in data:
        return data
    # `1e400` is JSON, but it is read as infinity, and would be written as such.
    finite = lambda text: float(text) if math.isfinite(float(text)) else None  # noqa: E731
    return _dumped(json.loads(data, parse_constant=lambda _: None, parse_float=finite))


def _dumped(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def parse(data: bytes) -> Any:
    """Parse JSON; None if `data` is not JSON."""
    try:
        return from_json(data)
    except ValueError:
        pass
    try:
        return json.loads(data)  # takes what the faster parser refuses: half of a surrogate pair
    except (ValueError, RecursionError):
        return None


def error_in(body: dict[str, Any]) -> EngineError:
    """Translate an error that came with status 200: as an event, or as the whole body."""
    return _error_of(_status_in(body), body, None, midway=True)


def _status_in(body: dict[str, Any]) -> int:
    """Return the HTTP status that an error body stands for; 500: it does not tell."""
    words = []
    for holder in (body.get("error"), body):
        for name in ("code", "status", "status_code", "type"):
            value = holder.get(name) if isinstance(holder, dict) else None
            if isinstance(value, str) and value.isdecimal():
                value = int(value)
            if isinstance(value, int) and 400 <= value <= 599:
                return value
            words.append(value.lower() if isinstance(value, str) else "")
    kind = " ".join(words)
    return next((status for word, status in _STATUS_OF_WORD if word in kind), 500)


def error_of(status: int, body: bytes, retry_after: str | None = None) -> EngineError:
    """Translate an HTTP error of the engine.

    Args:
        status: Its status, anything but 2xx.
        body: Its body; kept for the client if it is JSON or plain text.
        retry_after: Its `Retry-After` header: seconds, or a date.
    """
    parsed = parse(body)
    if parsed is None and b"\0" not in body and not body.lstrip().startswith(b"<"):
        parsed = body[:_LONGEST_REASON].decode(errors="replace").strip()
    return _error_of(status, parsed, retry_after, midway=False)


def _error_of(status: int, body: Any, retry_after: str | None, *, midway: bool) -> EngineError:
    reason = _message(body)
    body = body if isinstance(body, dict | list) else None
    message = f"The engine answered {status}{' midway' if midway else ''}"
    message = f"{message}: {reason}" if reason else f"{message}."
    if status in _BUSY:
        wait_s = _seconds(retry_after)
        return EngineBusy(message, status=status, body=body, retry_after_s=wait_s)
    if status in _UNAVAILABLE:
        return EngineUnavailable(message, status=status, body=body)
    if 400 <= status < 500 and status not in _TRANSIENT:
        return EngineRefused(reason or message, status=status, body=body)
    return EngineFailed(message, status=status, body=body)


def _message(body: Any) -> str:
    error = body.get("error") or body if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail")
    return error if isinstance(error, str) else ""


def _seconds(retry_after: str | None) -> float | None:
    """Convert a `Retry-After` header to seconds from now; None: absent or invalid."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (at - datetime.now(at.tzinfo or UTC)).total_seconds())
