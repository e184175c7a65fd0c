"""Translates a request of OpenAI's Responses API into a chat request, for every engine. Pure.

Text, images and function tools are translated. Unknown fields reach the engine unchanged, as on the
chat route. What has no counterpart is refused. docs/decisions/0022-responses.md says why requests
are translated, and not passed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, Tag

from lengthwise_queue.errors import BadRequest
from lengthwise_queue.openai.endpoint import JsonObject
from lengthwise_queue.openai.responses.input_items import items_of, messages_of
from lengthwise_queue.openai.responses.tools import response_format, tools_and_choice
from lengthwise_queue.openai.validation import (
    MAX_MODEL_NAME,
    Integer,
    Number,
    OpenAIBody,
    String,
    validate,
)

#: Fields without a counterpart -> what to do instead.
_UNSUPPORTED = {
    "conversation": "send the earlier turns in `input`, or use `previous_response_id`",
    "prompt": "stored prompts are not kept here; send their text in `input`",
    "context_management": "shorten `input` yourself",
    "max_tool_calls": "there are no built-in tools whose calls could be counted",
    "moderation": "check the text before or after",
    "image": "images can only be read",
}

#: Fields that the chat request has under the same name.
_SAME = ("model", "temperature", "top_p", "user", "parallel_tool_calls")

_Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class ResponseRequest(OpenAIBody):
    """A body of `/v1/responses`. Unknown fields are passed to the engine."""

    nested_params = frozenset({"input", "tools"})

    model: str = Field(
        min_length=1,
        max_length=MAX_MODEL_NAME,
        description="Name of the model. GET /v1/models lists the models",
    )
    input: (
        Annotated[str, Field(min_length=1), Tag("#text")]
        | Annotated[list[dict[str, Any]], Field(min_length=1), Tag("#items")]
    ) = Field(description="The text to answer, or the items of a conversation")
    instructions: str | None = None
    background: bool | None = Field(
        default=None, description="Return at once; the answer is retrieved later"
    )
    stream: bool | None = None
    store: bool | None = Field(
        default=None, description="Keep the response, so that it can be retrieved; default true"
    )
    previous_response_id: str | None = Field(
        default=None, description="A completed response whose conversation is continued"
    )
    # The engine checks these.
    max_output_tokens: Integer = Field(default=None, description="Longest answer, tokens")
    temperature: Number = None
    top_p: Number = None
    user: String = None
    metadata: _Metadata | None = Field(
        default=None,
        description="At most 16 strings of at most 512 characters, with keys of at most 64",
    )
    tools: list[dict[str, Any]] | None = Field(default=None, description="Function tools only")
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    # These are checked below, or by the engine.
    parallel_tool_calls: Any = None
    tool_choice: Any = None
    truncation: Any = None
    include: Any = None
    top_logprobs: Any = None
    # These are accepted and change nothing.
    stream_options: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None


@dataclass(frozen=True, kw_only=True)
class TranslatedRequest:
    """A request of the Responses API, in terms of chat."""

    settings: JsonObject  #: The chat request without its messages.
    instructions: str | None
    messages: list[JsonObject]  #: The messages of `input`.
    input_items: list[JsonObject]  #: `input`, always as items.
    echo: JsonObject  #: The fields that the response object repeats.
    background: bool
    stream: bool
    store: bool
    previous_response_id: str | None

    def chat_request(self, earlier: list[JsonObject]) -> JsonObject:
        """Return the chat request: instructions, earlier turns, then the messages of this one."""
        system: list[JsonObject] = []
        if self.instructions is not None:
            system = [{"role": "system", "content": self.instructions}]
        return self.settings | {"messages": system + earlier + self.messages, "stream": True}


def translate(body: JsonObject) -> TranslatedRequest:
    """Check and translate a body.

    Raises:
        BadRequest: A field is wrong, or cannot be translated; `param` names it.
    """
    for name, instead in _UNSUPPORTED.items():
        if body.get(name) is not None:
            raise BadRequest(
                f"`{name}` is not supported: {instead}.", param=name, code="unsupported_parameter"
            )
    request = validate(ResponseRequest, body)
    background, store = request.background is True, request.store is not False
    if background and not store:
        raise BadRequest(
            "`background` needs `store`: leave `store` out, or the response could never be "
            "retrieved.",
            param="store",
            code="invalid_value",
        )
    _refuse_options(request)
    items = items_of(request.input)
    messages = messages_of(items)
    # From the body and not from the model, so that numbers keep their spelling.
    settings = {name: body[name] for name in _SAME if body.get(name) is not None}
    if request.max_output_tokens is not None:
        settings["max_tokens"] = request.max_output_tokens
    if request.reasoning and request.reasoning.get("effort") is not None:
        settings["reasoning_effort"] = request.reasoning["effort"]
    settings |= tools_and_choice(request.tools, request.tool_choice)
    settings |= response_format(request.text)
    extra = request.model_extra or {}
    settings |= {name: value for name, value in extra.items() if name not in _UNSUPPORTED}
    return TranslatedRequest(
        settings=settings,
        instructions=request.instructions,
        messages=messages,
        input_items=items,
        echo=_echo(body),
        background=background,
        stream=request.stream is True,
        store=store,
        previous_response_id=request.previous_response_id,
    )


def _refuse_options(request: ResponseRequest) -> None:
    if request.truncation not in (None, "disabled"):
        raise BadRequest(
            "`truncation` must be `disabled`: shorten `input` yourself.",
            param="truncation",
            code="unsupported_value",
        )
    include = request.include
    logprobs = isinstance(include, list) and "message.output_text.logprobs" in include
    if logprobs or request.top_logprobs:
        raise BadRequest(
            "Responses do not have log probabilities here; POST /v1/chat/completions has them.",
            param="include" if logprobs else "top_logprobs",
            code="unsupported_value",
        )


def _echo(body: JsonObject) -> JsonObject:
    given = {name: value for name, value in body.items() if value is not None}
    return {
        "background": given.get("background", False),
        "instructions": given.get("instructions"),
        "max_output_tokens": given.get("max_output_tokens"),
        "metadata": given.get("metadata", {}),
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
