"""Checks an OpenAI request body before anything is queued. Pure.

What is wrong for every engine is refused here, with a message that says what to change. What only
the engine can know (an unknown field, a template, a sampling limit) is let through to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lengthwise_contract.jobs import EndpointPath
from lengthwise_contract.prompts import clip, message_text, render_prompt
from lengthwise_queue.admission.parsed_request import ParsedRequest
from lengthwise_queue.errors import BadRequest
from lengthwise_queue.web.request_body import kind_of

#: Longest model name, characters; that of `PredictRequest.model`.
MAX_MODEL_NAME = 256

#: Engines keep token counts in 32 bits.
MAX_TOKENS = 2**31 - 1

#: OpenAI's bound on `n`.
MAX_ANSWERS = 128


def check(endpoint: EndpointPath, body: dict[str, Any]) -> ParsedRequest:
    """Check a body of one of the OpenAI endpoints.

    Raises:
        BadRequest: Something in it is wrong; `param` names the field.
    """
    model = _model(body)
    for field, (want, holds) in _FIELDS[endpoint].items():
        value = body.get(field)
        if value is not None and not holds(value):  # null is "not given", as at OpenAI
            raise _wrong(field, want, value)
    chat = endpoint == "/v1/chat/completions"
    prompts = _chat_prompt(body) if chat else _completion_prompts(body)
    capped_by = "max_completion_tokens"
    if not chat or body.get(capped_by) is None:
        capped_by = "max_tokens"
    return ParsedRequest(
        model=model,
        stream=body.get("stream") is True,
        max_tokens=body.get(capped_by),
        max_tokens_param=capped_by,
        answers=max(len(prompts), 1) * (body.get("n") or 1),
        text=_predictor_text(body, prompts, chat),
        prompts=prompts,
        prompt_param="messages" if chat else "prompt",
    )


def _model(body: dict[str, Any]) -> str:
    model = body.get("model")
    if model is None:
        raise _missing("model", "name the model to ask; GET /v1/models lists them")
    if not isinstance(model, str) or not 0 < len(model) <= MAX_MODEL_NAME:
        want = f"a string of 1 to {MAX_MODEL_NAME} characters; GET /v1/models lists the models"
        raise _wrong("model", want, model)
    return model


def _chat_prompt(body: dict[str, Any]) -> list[list[str] | int]:
    messages = body.get("messages")
    if messages is None:
        raise _missing("messages", 'send e.g. [{"role": "user", "content": "Hello"}]')
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "an array of at least one message", messages)
    for place, message in enumerate(messages):
        _check_message(f"messages[{place}]", message)
    return [[_as_rendered(m) for m in messages]]


def _check_message(param: str, message: Any) -> None:
    if not isinstance(message, dict):
        raise _wrong(param, "an object with `role` and `content`", message)
    role = message.get("role")
    if role is None:
        raise _missing(f"{param}.role", 'give a role, such as "user"')
    if not isinstance(role, str) or not role:
        raise _wrong(f"{param}.role", 'a string such as "user"', role)
    content = message.get("content")
    if content is None:
        if role == "assistant":  # it may have called a tool instead of speaking
            return
        raise _missing(f"{param}.content", "give the message's text")
    if isinstance(content, list):
        for place, part in enumerate(content):
            if not isinstance(part, dict):
                want = 'an object such as {"type": "text", "text": "Hello"}'
                raise _wrong(f"{param}.content[{place}]", want, part)
    elif not isinstance(content, str):
        raise _wrong(f"{param}.content", "a string or an array of content parts", content)


def _as_rendered(message: dict[str, Any]) -> str:
    """The text of a message that is sure to be in the prompt, whatever the chat template does.

    Templates trim a message, and cut the thoughts out of the model's earlier answers.
    """
    text = message_text(message.get("content"))
    if message.get("role") == "assistant":
        text = text.rpartition("</think>")[2]
    return text.strip()


def _completion_prompts(body: dict[str, Any]) -> list[list[str] | int]:
    prompt = body.get("prompt")
    if prompt is None:
        if body.get("prompt_embeds") is not None:  # vLLM's; the engine checks them
            return []
        raise _missing("prompt", "send the text to complete")
    want = "a non-empty string, an array of strings, or an array of token ids"
    if isinstance(prompt, str) and prompt:
        return [[prompt]]
    if isinstance(prompt, list) and prompt:
        if all(_is_token(t) for t in prompt):
            return [len(prompt)]
        if all(isinstance(p, str) and p for p in prompt):
            return [[p] for p in prompt]
        if all(isinstance(p, list) and p and all(_is_token(t) for t in p) for p in prompt):
            return [len(p) for p in prompt]
        raise BadRequest(
            f"`prompt` must be {want}, and is an array of something else, of several kinds, or "
            "with an empty entry.",
            param="prompt",
            code="invalid_value",
        )
    raise _wrong("prompt", want, prompt)


def _predictor_text(body: dict[str, Any], prompts: list[list[str] | int], chat: bool) -> str | None:
    if chat:
        return clip(render_prompt(body["messages"])) or None
    # One text stands for all prompts of a body: it is one job, and its answers are alike.
    texts = [p[0] for p in prompts if isinstance(p, list)]
    return clip(texts[0]) if texts else None


def _missing(field: str, what_to_do: str) -> BadRequest:
    return BadRequest(
        f"`{field}` is missing: {what_to_do}.", param=field, code="missing_required_parameter"
    )


def _wrong(field: str, want: str, value: object) -> BadRequest:
    return BadRequest(
        f"`{field}` must be {want}, and is {kind_of(value)}.", param=field, code="invalid_value"
    )


# ------------------------------------------------------------------------------- field by field

Test = Callable[[Any], bool]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_token(value: Any) -> bool:
    return _is_int(value) and 0 <= value <= MAX_TOKENS


def _integer(low: int | None = None, high: int | None = None) -> tuple[str, Test]:
    bounds = {
        (True, True): f"an integer from {low} to {high}",
        (True, False): f"an integer of at least {low}",
        (False, False): "an integer",
    }[low is not None, high is not None]
    return (
        bounds,
        lambda v: _is_int(v) and (low is None or v >= low) and (high is None or v <= high),
    )


def _number(low: float, high: float | None = None) -> tuple[str, Test]:
    want = f"a number of at least {low}" if high is None else f"a number from {low} to {high}"
    return (
        want,
        lambda v: (
            isinstance(v, (int, float))
            and not isinstance(v, bool)
            and math.isfinite(v)
            and v >= low
            and (high is None or v <= high)
        ),
    )


_BOOLEAN: tuple[str, Test] = ("true or false", lambda v: isinstance(v, bool))
_STRING: tuple[str, Test] = ("a string", lambda v: isinstance(v, str))
_OBJECT: tuple[str, Test] = ("an object", lambda v: isinstance(v, dict))
_OBJECTS: tuple[str, Test] = (
    "an array of objects",
    lambda v: isinstance(v, list) and all(isinstance(o, dict) for o in v),
)
_STOP: tuple[str, Test] = (
    "a string or an array of strings",
    lambda v: isinstance(v, str) or (isinstance(v, list) and all(isinstance(s, str) for s in v)),
)
_TOOL_CHOICE: tuple[str, Test] = ("a string or an object", lambda v: isinstance(v, (str, dict)))

_BOTH: dict[str, tuple[str, Test]] = {
    "stream": _BOOLEAN,
    "stream_options": _OBJECT,
    "max_tokens": _integer(1, MAX_TOKENS),
    "n": _integer(1, MAX_ANSWERS),
    "temperature": _number(0),
    "top_p": _number(0, 1),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "seed": _integer(),
    "stop": _STOP,
    "logit_bias": _OBJECT,
    "user": _STRING,
}

#: EndpointPath -> field -> what it must be, in words and as a test; null is always fine.
_FIELDS: dict[EndpointPath, dict[str, tuple[str, Test]]] = {
    "/v1/chat/completions": _BOTH
    | {
        "max_completion_tokens": _integer(1, MAX_TOKENS),
        "logprobs": _BOOLEAN,
        "top_logprobs": _integer(),
        "tools": _OBJECTS,
        "tool_choice": _TOOL_CHOICE,
        "response_format": _OBJECT,
    },
    "/v1/completions": _BOTH
    | {
        "best_of": _integer(1, MAX_ANSWERS),
        "echo": _BOOLEAN,
        "logprobs": _integer(),
        "suffix": _STRING,
    },
}
