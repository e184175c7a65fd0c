"""Read a request to the simulated engine, with vLLM's checks and vLLM's error bodies. Pure.

Called by server.py.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

from lengthwise_contract.prompts import render_prompt

#: Half of the lengths that are drawn from a prompt are below this, tokens.
_MEDIAN_TOKENS = 120


class SimulatedError(Exception):
    """An HTTP error in vLLM's shape: the request is invalid, or a fault asks for the error."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": status}}


class SimulatedRequest:
    """A valid request, and the length of its answer.

    The length, tokens, is `vllm_xargs.output_tokens` of the body if present (vLLM's field for
    extra parameters); else `max_tokens` with `ignore_eos`; else a length drawn from a hash of the
    prompt, the same each time. It is at least `min_tokens`, at most `max_tokens` and the context.

    Raises:
        SimulatedError: The request is invalid.
    """

    def __init__(self, body: Any, *, chat: bool, model: str, max_model_len: int) -> None:
        if not isinstance(body, dict):
            raise SimulatedError(400, "BadRequestError", "The body must be a JSON object.")
        if body.get("model") != model:
            name = body.get("model")
            raise SimulatedError(404, "NotFoundError", f"The model `{name}` does not exist.")
        prompt = _prompt(body, chat=chat)
        self.prompt_tokens = max(1, len(prompt.split()))
        room = max_model_len - self.prompt_tokens
        if room < 1:
            raise SimulatedError(
                400,
                "BadRequestError",
                f"This model's maximum context length is {max_model_len} tokens. However, your "
                f"request has {self.prompt_tokens} input tokens.",
            )
        cap = _whole(body, "max_completion_tokens", _whole(body, "max_tokens", None))
        at_least = _whole(body, "min_tokens", 0, least=0) or 0
        xargs = body.get("vllm_xargs")
        wanted = _whole(xargs, "output_tokens", None) if isinstance(xargs, dict) else None
        if wanted is None and body.get("ignore_eos") is True and cap is not None:
            wanted = cap
        natural = wanted if wanted is not None else _drawn_length(prompt)
        self.output_tokens = max(1, min(max(natural, at_least), cap or room, room))
        self.stopped = self.output_tokens == natural
        self.priority = body.get("priority", 0)
        self.choices = _whole(body, "n", 1) or 1
        self.stream = body.get("stream") is True
        options = body.get("stream_options")
        self.usage_wanted = isinstance(options, dict) and options.get("include_usage") is True
        #: What `GET /admin/seen` shows of it.
        self.summary: dict[str, object] = {
            "priority": self.priority,
            "output_tokens": self.output_tokens,
            "keys": sorted(body),
        }

    @property
    def usage(self) -> dict[str, int]:
        """OpenAI's usage object."""
        output = self.output_tokens * self.choices
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": output,
            "total_tokens": self.prompt_tokens + output,
        }


def _prompt(body: dict[str, Any], *, chat: bool) -> str:
    if not chat:
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = prompt[0]  # as LangChain sends it
        if not isinstance(prompt, str) or not prompt:
            raise SimulatedError(400, "BadRequestError", "`prompt` must be one string.")
        return prompt
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise SimulatedError(400, "BadRequestError", "`messages` must be a non-empty list.")
    return render_prompt(messages)


def _whole(body: dict[str, Any], name: str, default: int | None, *, least: int = 1) -> int | None:
    """Return an integer field, or `default` if it is missing."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or value < least:
        message = f"{name} must be at least {least}, got {value}."
        raise SimulatedError(400, "BadRequestError", message)
    return value


def _drawn_length(prompt: str) -> int:
    """Draw a length for a prompt, tokens.

    The same prompt always gets the same length. Lengths spread over two orders of magnitude.
    """
    uniform = (zlib.crc32(prompt.encode()) + 0.5) / 2**32
    return max(1, round(_MEDIAN_TOKENS * math.exp(math.log(uniform / (1 - uniform)) * 0.6)))
