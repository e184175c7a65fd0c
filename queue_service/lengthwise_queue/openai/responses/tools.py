"""The tools and the text format of a response, as fields of a chat request. Pure."""

from __future__ import annotations

from typing import Any

from lengthwise_queue.errors import BadRequest
from lengthwise_queue.openai.endpoint import JsonObject
from lengthwise_queue.openai.validation import string_at

#: What to do in place of a tool that the client runs.
_RUN_IT_YOURSELF = (
    "Leave it out, or declare a `function` with the same name and run it yourself when the model "
    "calls it."
)

#: Type of a tool -> what to do in place of it.
_INSTEAD = {
    "custom": "Declare it as a `function` with one string parameter, such as `input`: the model's "
    "call then has the text in its `arguments`.",
}


def tools_and_choice(tools: list[JsonObject] | None, choice: Any) -> JsonObject:
    """Return the fields `tools` and `tool_choice` of the chat request, as far as they are set.

    Raises:
        BadRequest: A tool is not a function, or the choice is none that a chat request has.
    """
    chat: JsonObject = {}
    if tools:
        chat["tools"] = [_tool(f"tools[{place}]", tool) for place, tool in enumerate(tools)]
    if choice is not None:
        chat["tool_choice"] = _choice(choice)
    return chat


def _tool(param: str, tool: JsonObject) -> JsonObject:
    kind = tool.get("type")
    if kind != "function":
        raise BadRequest(
            f"`{param}`{_named(tool)} is not a `function`, and the engines behind this service are "
            f"asked for chats, which have no others. {_INSTEAD.get(str(kind), _RUN_IT_YOURSELF)}",
            param=f"{param}.type",
            code="unsupported_value",
        )
    string_at(param, tool, "name")
    fields = ("name", "description", "parameters", "strict")
    function = {name: tool[name] for name in fields if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _named(tool: JsonObject) -> str:
    """Return the type and the name of a tool, in words, if they are short texts."""
    kind, name = (
        value if isinstance(value := tool.get(field), str) and 0 < len(value) <= 64 else None
        for field in ("type", "name")
    )
    words = [f" of type `{kind}`"] if kind else []
    return "".join([*words, f" (`{name}`)"] if name else words)


def _choice(choice: Any) -> str | JsonObject:
    if isinstance(choice, str):
        return choice
    if isinstance(choice, dict) and choice.get("type") == "function":
        name = string_at("tool_choice", choice, "name")
        return {"type": "function", "function": {"name": name}}
    raise BadRequest(
        '`tool_choice` must be `auto`, `none`, `required`, or {"type": "function", "name": "..."}.',
        param="tool_choice",
        code="unsupported_value",
    )


def response_format(text: JsonObject | None) -> JsonObject:
    """Return the field `response_format` of the chat request; nothing if the text is free.

    Raises:
        BadRequest: The format is none that a chat request has.
    """
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
