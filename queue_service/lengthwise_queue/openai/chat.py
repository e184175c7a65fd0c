"""The endpoint `/v1/chat/completions`. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lengthwise_contract.prompts import (
    clip,
    message_text,
    render_request,
    split_instructions,
)
from lengthwise_queue.openai.chunks import merge_delta, objects
from lengthwise_queue.openai.endpoint import Endpoint, GenerationRequest, JsonObject, Prompt
from lengthwise_queue.openai.validation import (
    Array,
    Boolean,
    Integer,
    Object,
    OpenAIBody,
    String,
)


class ChatMessage(OpenAIBody):
    """One message of a chat; the engine checks what is in it."""

    role: String = Field(default=None, description="Such as user or assistant")
    content: Any = Field(default=None, description="A text, or parts such as texts and images")


class ChatCompletionRequest(GenerationRequest):
    """A body of `/v1/chat/completions`. The engine checks what is not described here."""

    nested_params = frozenset({"messages"})

    max_completion_tokens: Integer = Field(
        default=None, description="The newer name of `max_tokens`"
    )
    logprobs: Boolean = None
    top_logprobs: Integer = None
    tools: Array = None
    tool_choice: Any = None
    response_format: Object = None
    messages: list[ChatMessage] = Field(
        description='Such as [{"role": "user", "content": "Hello"}]'
    )


class ChatEndpoint(Endpoint[ChatCompletionRequest]):
    """See `Endpoint`."""

    path = "/v1/chat/completions"
    name = "chat_completions"
    description = (
        "OpenAI's chat completions. The engine receives the body byte for byte.\n\n"
        "The header `X-Lengthwise-Job-Id` of the answer names the job. A client that disconnects "
        "cancels its job, unless it sent an `Idempotency-Key`: then it can repeat the request and "
        "get the same job."
    )
    request_model = ChatCompletionRequest
    object_name = "chat.completion"
    prompt_param = "messages"
    delta_field = "delta"

    def max_tokens(self, request: ChatCompletionRequest) -> Any:
        """Return `max_completion_tokens` if it is set, else the older `max_tokens`."""
        new, old = request.max_completion_tokens, request.max_tokens
        return old if new is None else new

    def prompts(self, request: ChatCompletionRequest, body: JsonObject) -> list[Prompt]:
        """Return one prompt, of the texts of all messages."""
        return [[_as_rendered(message) for message in body["messages"]]]

    def predictor_text(self, body: JsonObject, prompts: list[Prompt]) -> str | None:
        """Render the messages behind the leading system messages, as in training."""
        return clip(render_request(body["messages"])) or None

    def messages(self, body: JsonObject) -> list[JsonObject] | None:
        """Return all messages."""
        messages: list[JsonObject] = body["messages"]
        return messages

    def instructions(self, body: JsonObject) -> str:
        """Return the text of the leading system messages."""
        return split_instructions(body["messages"])[0]

    def is_partial(self, choice: JsonObject) -> bool:
        """Look for a `delta`. A complete response has a `message` instead."""
        return "delta" in choice

    def delta(self, choice: JsonObject) -> JsonObject:
        """Return the fields of the choice's `delta`."""
        delta = choice.get("delta")
        return delta if isinstance(delta, dict) else {}

    def with_delta(self, choice: JsonObject, delta: JsonObject) -> JsonObject:
        """Replace the `delta`."""
        return choice | {"delta": delta}

    def add_delta(self, choice: JsonObject, delta: Any) -> None:
        """Merge the delta into the choice's `message`."""
        if isinstance(delta, dict):
            merge_delta(choice.setdefault("message", {}), delta)

    def complete(self, choice: JsonObject) -> None:
        """Add a role and content to the message, and remove the `index` of its tool calls."""
        message = {"role": "assistant", "content": None} | choice.get("message", {})
        for call in objects(message.get("tool_calls")):
            call.pop("index", None)  # only deltas have it
        choice["message"] = message


def _as_rendered(message: JsonObject) -> str:
    """Return the text of a message that every chat template puts into the prompt.

    Templates strip messages, and cut the thoughts out of the model's earlier answers.
    """
    text = message_text(message.get("content"))
    if message.get("role") == "assistant":
        text = text.rpartition("</think>")[2]
    return text.strip()


CHAT = ChatEndpoint()
