"""Read OpenAI requests and write OpenAI answers for the `transformers` engine. Pure.

Other engines have an OpenAI endpoint; this one has none. Called by engine.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lengthwise_store.jobs import Claim
from lengthwise_worker.errors import EngineRefused

#: Fields that this engine does not support. A request that uses one is refused.
_UNSUPPORTED = ("tools", "functions", "logprobs", "response_format", "logit_bias", "suffix", "echo")


@dataclass(frozen=True, kw_only=True)
class DecodingRequest:
    """A parsed request.

    `messages` or `prompt` (text, or tokens) is what to answer. `max_tokens`: None: up to the end of
    the context. `temperature`: 0 is greedy. `seed`: None: any.
    """

    chat: bool
    messages: list[dict[str, str]]
    prompt: str | list[int]
    max_tokens: int | None
    min_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    seed: int | None
    ignore_eos: bool
    stream: bool
    include_usage: bool


def parse_request(claim: Claim) -> DecodingRequest:
    """Parse the request of a job.

    Raises:
        EngineRefused: The request is invalid, or uses a field that this engine does not support.
    """
    try:
        body = json.loads(claim.body)
    except ValueError as exc:
        raise EngineRefused(f"The body is not JSON: {exc}", status=400) from exc
    if not isinstance(body, dict):
        raise EngineRefused("The body must be a JSON object.", status=400)
    for name in _UNSUPPORTED:
        if body.get(name):
            raise EngineRefused(f"The transformers engine cannot do {name!r}.", status=400)
    if _number(body, "n", 1) != 1:
        raise EngineRefused("The transformers engine gives one answer: n must be 1.", status=400)
    chat = claim.endpoint.endswith("/chat/completions")
    options = body.get("stream_options")
    stop = body.get("stop") or ()
    most = body.get("max_completion_tokens", body.get("max_tokens", None if chat else 16))
    if most is not None and (not isinstance(most, int) or most < 1):
        raise EngineRefused(f"max_tokens must be a whole number >= 1, not {most!r}.", status=400)
    seed = body.get("seed")
    return DecodingRequest(
        chat=chat,
        messages=_messages(body.get("messages")) if chat else [],
        prompt="" if chat else _prompt(body.get("prompt")),
        max_tokens=most,
        min_tokens=int(_number(body, "min_tokens", 0)),
        temperature=_number(body, "temperature", 1.0),
        top_p=_number(body, "top_p", 1.0),
        stop=(stop,) if isinstance(stop, str) else tuple(str(one) for one in stop),
        seed=seed if isinstance(seed, int) else None,
        ignore_eos=bool(body.get("ignore_eos")),
        stream=bool(body.get("stream")),
        include_usage=isinstance(options, dict) and bool(options.get("include_usage")),
    )


def _number(body: dict[str, Any], name: str, default: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise EngineRefused(f"{name} must be a number >= 0, not {value!r}.", status=400)
    return float(value)


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise EngineRefused("messages must be a list of at least one message.", status=400)
    found = []
    for message in value:
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            texts = [part.get("text") if isinstance(part, dict) else None for part in content]
            found_texts = [text for text in texts if isinstance(text, str)]
            content = "".join(found_texts) if len(found_texts) == len(texts) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise EngineRefused("Each message needs a role and a text as its content.", status=400)
        found.append({"role": role, "content": content})
    return found


def _prompt(value: Any) -> str | list[int]:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(type(token) is int for token in value):
        return value
    raise EngineRefused("prompt must be one text, or one list of tokens.", status=400)


@dataclass(frozen=True, kw_only=True)
class ResponseFormatter:
    """Writes one answer in OpenAI's format: its events, or its body."""

    request: DecodingRequest
    answer_id: str
    model: str

    def piece(self, text: str, *, first: bool = False) -> bytes:
        """Return the event of a piece of text."""
        return self._event(text, None, first=first)

    def last(self, reason: str) -> bytes:
        """Return the event with the reason for the end."""
        return self._event("", reason)

    def usage(self, prompt_tokens: int, output_tokens: int) -> bytes:
        """Return the event with the token counts."""
        return _json(self._head(chunk=True) | _choices([]) | _usage(prompt_tokens, output_tokens))

    def whole(self, text: str, reason: str, prompt_tokens: int, output_tokens: int) -> bytes:
        """Return the body of an answer that is not streamed."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        if self.request.chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        counts = _usage(prompt_tokens, output_tokens)
        return _json(self._head(chunk=False) | _choices([choice]) | counts)

    def _event(self, text: str, reason: str | None, *, first: bool = False) -> bytes:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        if self.request.chat:
            delta = {"content": text} if text else {}
            choice["delta"] = {"role": "assistant"} | delta if first else delta
        else:
            choice["text"] = text
        nothing = {"usage": None} if self.request.include_usage else {}
        return _json(self._head(chunk=True) | _choices([choice]) | nothing)

    def _head(self, *, chunk: bool) -> dict[str, Any]:
        kind = "text_completion"
        if self.request.chat:
            kind = "chat.completion.chunk" if chunk else "chat.completion"
        return {
            "id": self.answer_id,
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
        }


def _choices(choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"choices": list(choices)}


def _usage(prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": prompt_tokens + output_tokens,
        }
    }


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
