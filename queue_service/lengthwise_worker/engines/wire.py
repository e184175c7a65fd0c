"""Parse and rewrite the parts of the OpenAI wire format that a worker must understand. Pure.

Bodies pass through as bytes. A body is parsed to read it, and re-encoded only if the client already
set a key that the worker sets. Called by openai_http.py and vllm.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

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

#: Statuses of an engine that is overloaded, and of one that rejects our key.
_BUSY, _UNAVAILABLE = frozenset({429, 503}), frozenset({401, 403})

#: Client errors that may succeed on another try: request timeout, conflict, too early.
_TRANSIENT = frozenset({408, 409, 425})


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """A request as the engine gets it.

    `added_usage`: the worker asks for the token counts, and the client did not.
    """

    body: bytes
    stream: bool
    added_usage: bool


def engine_request(body: bytes, extra: dict[str, Any] | None = None) -> EngineRequest:
    """Make the engine's request from a job's body.

    Args:
        body: The job's body, a JSON object, as the client sent it.
        extra: Keys that the worker sets. They replace the client's.

    Raises:
        EngineRefused: The body is not a JSON object.
    """
    try:
        fields = json.loads(body)
    except ValueError as exc:
        raise EngineRefused(f"The body is not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise EngineRefused(f"The body must be a JSON object, not {type(fields).__name__}")
    add = dict(extra or {})
    stream = fields.get("stream") is True
    options = fields.get("stream_options")
    requested = isinstance(options, dict) and options.get("include_usage") is True
    if stream and not requested:
        add["stream_options"] = {"include_usage": True}
        if isinstance(options, dict):
            # If both are set, vLLM sends usage with every piece.
            kept = {k: v for k, v in options.items() if k != "continuous_usage_stats"}
            add["stream_options"] = kept | {"include_usage": True}
    return EngineRequest(
        body=_with(body, fields, add), stream=stream, added_usage=stream and not requested
    )


def _with(body: bytes, fields: dict[str, Any], add: dict[str, Any]) -> bytes:
    """Add keys to a body. The client's bytes are kept unless a key must be replaced."""
    if not add:
        return body
    if not fields or not add.keys().isdisjoint(fields):
        return json.dumps(fields | add, separators=(",", ":")).encode()
    tail = json.dumps(add, separators=(",", ":")).encode()
    return body[: body.rindex(b"}")] + b"," + tail[1:]


class EventSplitter:
    """Splits a stream of bytes into the data of its server-sent events. Comments are dropped.

    It is the worker's hot path. A library was measured at half its speed and has no interface for
    bytes: docs/decisions/0070-libraries-for-what-is-not-our-purpose.md.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that `data` completes, in order."""
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(b"\n\n")
        found = []
        for event in events:
            if event.startswith(b"data: ") and b"\n" not in event:
                found.append(event[6:])
                continue
            lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if _is_data(line)]
            if lines:
                found.append(b"\n".join(lines))
        return found


def _is_data(line: bytes) -> bool:
    return line.startswith(b"data:")


@dataclass
class Usage:
    """The token counts that an engine reported; None: not yet."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None

    def read(self, body: Any) -> None:
        """Store the counts of a response or event that has `usage`."""
        usage = body.get("usage") if isinstance(body, dict) else None
        if isinstance(usage, dict):
            self.prompt_tokens = _count(usage.get("prompt_tokens"), self.prompt_tokens)
            self.output_tokens = _count(usage.get("completion_tokens"), self.output_tokens)


def _count(value: Any, before: int | None) -> int | None:
    return value if isinstance(value, int) and value >= 0 else before


def read_event(data: bytes, usage: Usage, *, added_usage: bool) -> bytes | None:
    """Return an event as the client gets it; None: the client does not get it.

    Args:
        data: The event's JSON.
        usage: Stores the engine's counts, if the event has them.
        added_usage: Whether the worker asked for the counts, and the client did not.

    Raises:
        EngineError: The event reports an error in the middle of the answer.
    """
    if b'"error"' in data:
        event = parse(data)
        if isinstance(event, dict) and (event.get("error") or event.get("object") == "error"):
            raise _error_of(_error_status(event), event, None, midway=True)
    if b'"usage"' not in data:
        return data
    if added_usage:
        data = _NULL_USAGE.sub(b"", data)
        if b'"usage"' not in data:
            return data
    event = parse(data)
    if isinstance(event, dict) and isinstance(event.get("usage"), dict):
        usage.read(event)
        if added_usage and event.get("choices") == []:
            return None
    return data


def parse(data: bytes) -> Any:
    """Parse JSON; None if `data` is not JSON."""
    try:
        return json.loads(data)
    except ValueError:
        return None


def _error_status(event: dict[str, Any]) -> int:
    """Return the HTTP status of an error event; 500 if it has none."""
    error = event.get("error")
    code = error.get("code") if isinstance(error, dict) else event.get("code")
    return code if isinstance(code, int) and 400 <= code <= 599 else 500


def error_of(status: int, body: bytes, retry_after: str | None = None) -> EngineError:
    """Translate an HTTP error of the engine.

    Args:
        status: Its status, anything but 2xx.
        body: Its body; kept for the client if it is JSON.
        retry_after: Its `Retry-After` header: seconds, or a date.
    """
    return _error_of(status, parse(body), retry_after, midway=False)


def _error_of(status: int, body: Any, retry_after: str | None, *, midway: bool) -> EngineError:
    reason = _message(body)
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
    error = body.get("error", body) if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else ""


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
