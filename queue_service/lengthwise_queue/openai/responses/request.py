"""A request of OpenAI's Responses API, as the chat request that every engine understands. Pure.

Text, images and function tools are translated; fields that we do not know reach the engine as they
are, as on the chat route; what has no counterpart is refused with a message that says so. Why it is
translated, and not passed on: docs/decisions/0022-responses.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lengthwise_queue.errors import BadRequest
from lengthwise_queue.web.request_body import kind_of

JsonObject = dict[str, Any]

#: Fields that the chat request has under the same name.
_SAME = ("model", "temperature", "top_p", "user", "parallel_tool_calls")

#: Fields that are ours, or that change nothing here.
_OURS = frozenset(
    {
        *("background", "stream", "store", "metadata", "previous_response_id", "stream_options"),
        *("service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
        *("prompt_cache_options",),
    }
)

#: Fields without a counterpart -> what to do instead.
_REFUSED = {
    "conversation": "send the earlier turns in `input`, or use `previous_response_id`",
    "prompt": "stored prompts are not kept here; send their text in `input`",
    "context_management": "shorten `input` yourself",
    "max_tool_calls": "there are no built-in tools whose calls could be counted",
    "moderation": "check the text before or after",
    "image": "images are only read",
}

#: Fields that are translated one by one, below.
_TRANSLATED = frozenset(
    {
        *("input", "instructions", "max_output_tokens", "tools", "tool_choice", "text"),
        *("reasoning", "include", "top_logprobs", "truncation"),
    }
)

#: Roles of chat; `developer` is what `system` is called there, and few templates know it.
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a client of the Responses API asks for."""

    chat: JsonObject  #: The chat request, without the turns of a previous response.
    turns: list[JsonObject]  #: Its messages, but for the instructions.
    items: list[JsonObject]  #: The input, as items.
    echo: JsonObject  #: The fields that the response repeats.
    background: bool
    stream: bool
    store: bool
    previous_response_id: str | None


def read(body: JsonObject) -> Asked:
    """Translate a request.

    Raises:
        BadRequest: Something in it is wrong, or cannot be translated; `param` names the field.
    """
    for name, instead in _REFUSED.items():
        if body.get(name) is not None:
            raise BadRequest(
                f"`{name}` is not supported: {instead}.", param=name, code="unsupported_parameter"
            )
    background, stream = _flag(body, "background", False), _flag(body, "stream", False)
    store = _flag(body, "store", True)
    if background and not store:
        raise BadRequest(
            "`background` needs `store`: leave `store` out, or it could never be retrieved.",
            param="store",
            code="invalid_value",
        )
    previous = body.get("previous_response_id")
    if previous is not None and not isinstance(previous, str):
        raise _wrong("previous_response_id", "the id of a response", previous)
    items = _items(body.get("input"))
    turns = _turns(items)
    chat = {name: body[name] for name in _SAME if body.get(name) is not None}
    chat |= _limits(body) | _tools(body) | _format(body)
    known = {*_SAME, *_OURS, *_REFUSED, *_TRANSLATED}
    chat |= {name: value for name, value in body.items() if name not in known}
    return Asked(
        chat=chat,
        turns=turns,
        items=items,
        echo=_echo(body),
        background=background,
        stream=stream,
        store=store,
        previous_response_id=previous,
    )


def messages(asked: Asked, earlier: list[JsonObject]) -> list[JsonObject]:
    """All messages of the chat: the instructions, the earlier turns, and those of this request."""
    instructions = asked.echo["instructions"]
    first = [] if instructions is None else [{"role": "system", "content": instructions}]
    return first + earlier + asked.turns


# ------------------------------------------------------------------------------- the input


def _items(value: Any) -> list[JsonObject]:
    if isinstance(value, str) and value:
        return [
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": value}],
            }
        ]
    if not isinstance(value, list) or not value:
        if value is None:
            raise BadRequest(
                "`input` is missing: send the text to answer.",
                param="input",
                code="missing_required_parameter",
            )
        raise _wrong("input", "a string or an array of items", value)
    for place, item in enumerate(value):
        if not isinstance(item, dict):
            raise _wrong(f"input[{place}]", "an object", item)
    return [{"type": "message"} | item for item in value]


def _turns(items: list[JsonObject]) -> list[JsonObject]:
    turns: list[JsonObject] = []
    for place, item in enumerate(items):
        param = f"input[{place}]"
        match item["type"]:
            case "message":
                turns.append(_message(param, item))
            case "function_call":
                call = {
                    "id": _text(param, item, "call_id"),
                    "type": "function",
                    "function": {
                        "name": _text(param, item, "name"),
                        "arguments": _text(param, item, "arguments"),
                    },
                }
                # Calls of one turn are one message, together with what was said before them.
                if not turns or turns[-1]["role"] != "assistant":
                    turns.append({"role": "assistant", "content": None})
                turns[-1].setdefault("tool_calls", []).append(call)
            case "function_call_output":
                turns.append(
                    {
                        "role": "tool",
                        "tool_call_id": _text(param, item, "call_id"),
                        "content": _content(f"{param}.output", item.get("output")),
                    }
                )
            case "reasoning":
                continue  # a model's earlier thoughts are not shown to it again
            case other:
                raise BadRequest(
                    f"`{param}` is of a type that is not supported"
                    f"{f', `{other}`' if isinstance(other, str) and len(other) < 64 else ''}: send "
                    "messages, function calls and their outputs.",
                    param=f"{param}.type",
                    code="unsupported_value",
                )
    return turns


def _message(param: str, item: JsonObject) -> JsonObject:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _wrong(f"{param}.role", f"one of {', '.join(_ROLES)}", role)
    return {"role": _ROLES[role], "content": _content(f"{param}.content", item.get("content"))}


def _content(param: str, value: Any) -> str | list[JsonObject]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise _wrong(param, "a string or an array of content parts", value)
    parts = [_part(f"{param}[{place}]", part) for place, part in enumerate(value)]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts


def _part(param: str, part: Any) -> JsonObject:
    if not isinstance(part, dict):
        raise _wrong(param, "an object", part)
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": _text(param, part, "text")}
        case "refusal":
            return {"type": "text", "text": _text(param, part, "refusal")}
        case "input_image" if part.get("image_url") is not None:
            image = {"url": _text(param, part, "image_url")}
            if part.get("detail") is not None:
                image["detail"] = _text(param, part, "detail")
            return {"type": "image_url", "image_url": image}
    raise BadRequest(
        f"`{param}` cannot be sent to the engine: send `input_text`, or `input_image` with an "
        "`image_url`.",
        param=f"{param}.type",
        code="unsupported_value",
    )


# ------------------------------------------------------------------------------- the settings


def _limits(body: JsonObject) -> JsonObject:
    if body.get("truncation") not in (None, "disabled"):
        raise BadRequest(
            "`truncation` must be `disabled`: shorten `input` yourself.",
            param="truncation",
            code="unsupported_value",
        )
    include = body.get("include")
    logprobs = isinstance(include, list) and "message.output_text.logprobs" in include
    if logprobs or body.get("top_logprobs"):
        raise BadRequest(
            "Log probabilities are not part of responses here; POST /v1/chat/completions has them.",
            param="include" if logprobs else "top_logprobs",
            code="unsupported_value",
        )
    chat: JsonObject = {}
    if body.get("max_output_tokens") is not None:
        chat["max_tokens"] = body["max_output_tokens"]
    reasoning = body.get("reasoning")
    if reasoning is not None and not isinstance(reasoning, dict):
        raise _wrong("reasoning", "an object", reasoning)
    if reasoning and reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]
    return chat


def _tools(body: JsonObject) -> JsonObject:
    chat: JsonObject = {}
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise _wrong("tools", "an array of objects", tools)
    for place, tool in enumerate(tools or []):
        param = f"tools[{place}]"
        if not isinstance(tool, dict):
            raise _wrong(param, "an object", tool)
        if tool.get("type") != "function":
            raise BadRequest(
                f"`{param}` must be of type `function`: no tools run in this service.",
                param=f"{param}.type",
                code="unsupported_value",
            )
        _text(param, tool, "name")
        fields = ("name", "description", "parameters", "strict")
        function = {name: tool[name] for name in fields if tool.get(name) is not None}
        chat.setdefault("tools", []).append({"type": "function", "function": function})
    choice = body.get("tool_choice")
    if isinstance(choice, str):
        chat["tool_choice"] = choice
    elif isinstance(choice, dict) and choice.get("type") == "function":
        name = _text("tool_choice", choice, "name")
        chat["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif choice is not None:
        raise BadRequest(
            '`tool_choice` must be `auto`, `none`, `required`, or {"type": "function", "name": '
            '"..."}.',
            param="tool_choice",
            code="unsupported_value",
        )
    return chat


def _format(body: JsonObject) -> JsonObject:
    text = body.get("text")
    if text is not None and not isinstance(text, dict):
        raise _wrong("text", "an object", text)
    form = (text or {}).get("format")
    if form is None:
        return {}
    match form.get("type") if isinstance(form, dict) else None:
        case "text":
            return {}
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case "json_schema":
            fields = ("name", "description", "schema", "strict")
            schema = {name: form[name] for name in fields if form.get(name) is not None}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
    raise BadRequest(
        "`text.format` must be of type `text`, `json_object` or `json_schema`.",
        param="text.format",
        code="invalid_value",
    )


def _echo(body: JsonObject) -> JsonObject:
    instructions = body.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        raise _wrong("instructions", "a string", instructions)
    metadata = body.get("metadata")
    if metadata is not None and not _is_metadata(metadata):
        raise _wrong(
            "metadata",
            "an object of at most 16 strings of at most 512 characters, with keys of at most 64",
            metadata,
        )
    given = {name: value for name, value in body.items() if value is not None}
    return {
        "background": given.get("background", False),
        "instructions": instructions,
        "max_output_tokens": given.get("max_output_tokens"),
        "metadata": metadata or {},
        "model": given.get("model"),
        "parallel_tool_calls": given.get("parallel_tool_calls", True),
        "previous_response_id": given.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None} | given.get("reasoning", {}),
        "service_tier": "default",
        "store": given.get("store", True),
        "temperature": given.get("temperature"),
        "text": {"format": {"type": "text"}} | given.get("text", {}),
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": given.get("tools", []),
        "top_p": given.get("top_p"),
        "truncation": "disabled",
        "user": given.get("user"),
    }


def _is_metadata(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= 16
        and all(len(k) <= 64 and isinstance(v, str) and len(v) <= 512 for k, v in value.items())
    )


def _flag(body: JsonObject, name: str, default: bool) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _wrong(name, "true or false", value)
    return value


def _text(param: str, item: JsonObject, name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise _wrong(f"{param}.{name}", "a string", value)
    return value


def _wrong(field: str, want: str, value: object) -> BadRequest:
    return BadRequest(
        f"`{field}` must be {want}, and is {kind_of(value)}.", param=field, code="invalid_value"
    )
