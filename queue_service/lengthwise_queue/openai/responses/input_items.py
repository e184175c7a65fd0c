"""The `input` of a response as items, and its items as messages of a chat. Pure."""

from __future__ import annotations

from typing import Any

from lengthwise_queue.errors import BadRequest
from lengthwise_queue.openai.endpoint import JsonObject
from lengthwise_queue.openai.validation import string_at, wrong

#: Role of an item -> role of its message. Few chat templates know the newer `developer`.
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def items_of(value: str | list[JsonObject]) -> list[JsonObject]:
    """Return the input as items: a text is one message of the user."""
    if isinstance(value, str):
        content = [{"type": "input_text", "text": value}]
        return [{"type": "message", "role": "user", "content": content}]
    return [{"type": "message"} | item for item in value]


def messages_of(items: list[JsonObject]) -> list[JsonObject]:
    """Translate items into messages of a chat.

    Raises:
        BadRequest: An item is wrong, or has no counterpart in a chat; `param` names it.
    """
    messages: list[JsonObject] = []
    for place, item in enumerate(items):
        param = f"input[{place}]"
        match item["type"]:
            case "message":
                messages.append(_message(param, item))
            case "function_call":
                # Calls that follow one another are one message, with the text before them.
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": None})
                messages[-1].setdefault("tool_calls", []).append(_tool_call(param, item))
            case "function_call_output":
                messages.append(
                    {
                        "role": "tool",
                        "tool_call_id": string_at(param, item, "call_id"),
                        "content": _content(f"{param}.output", item.get("output")),
                    }
                )
            case "reasoning":
                continue  # a model does not read its earlier thoughts again
            case other:
                shown = f", `{other}`" if isinstance(other, str) and len(other) < 64 else ""
                raise BadRequest(
                    f"`{param}` is of a type that is not supported{shown}: send messages, function "
                    "calls and their outputs.",
                    param=f"{param}.type",
                    code="unsupported_value",
                )
    return messages


def _message(param: str, item: JsonObject) -> JsonObject:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise wrong(f"{param}.role", f"one of {', '.join(_ROLES)}", role)
    return {"role": _ROLES[role], "content": _content(f"{param}.content", item.get("content"))}


def _tool_call(param: str, item: JsonObject) -> JsonObject:
    return {
        "id": string_at(param, item, "call_id"),
        "type": "function",
        "function": {
            "name": string_at(param, item, "name"),
            "arguments": string_at(param, item, "arguments"),
        },
    }


def _content(param: str, value: Any) -> str | list[JsonObject]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise wrong(param, "a string or an array of content parts", value)
    parts = [_part(f"{param}[{place}]", part) for place, part in enumerate(value)]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts


def _part(param: str, part: Any) -> JsonObject:
    if not isinstance(part, dict):
        raise wrong(param, "an object", part)
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": string_at(param, part, "text")}
        case "refusal":
            return {"type": "text", "text": string_at(param, part, "refusal")}
        case "input_image" if part.get("image_url") is not None:
            image = {"url": string_at(param, part, "image_url")}
            if part.get("detail") is not None:
                image["detail"] = string_at(param, part, "detail")
            return {"type": "image_url", "image_url": image}
    raise BadRequest(
        f"`{param}` cannot be sent to the engine: send `input_text`, or `input_image` with an "
        "`image_url`.",
        param=f"{param}.type",
        code="unsupported_value",
    )
