"""The endpoint `/v1/completions`. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lengthwise_contract.prompts import clip
from lengthwise_queue.openai.endpoint import Endpoint, GenerationRequest, JsonObject, Prompt
from lengthwise_queue.openai.validation import Boolean, Integer, String, missing


class CompletionRequest(GenerationRequest):
    """A body of `/v1/completions`. The engine checks what is not described here."""

    best_of: Integer = None
    echo: Boolean = None
    logprobs: Integer = None
    suffix: String = None
    prompt: Any = Field(
        default=None,
        description="One or more prompts, as texts or as lists of token ids. Required unless "
        "`prompt_embeds` is sent",
    )
    prompt_embeds: Any = Field(default=None, description="vLLM's; the engine checks it")


class CompletionsEndpoint(Endpoint[CompletionRequest]):
    """See `Endpoint`."""

    path = "/v1/completions"
    name = "completions"
    description = "OpenAI's completions. See chat completions."
    request_model = CompletionRequest
    object_name = "text_completion"
    prompt_param = "prompt"
    delta_field = "text"

    def prompts(self, request: CompletionRequest, body: JsonObject) -> list[Prompt]:
        """Return one prompt for each text or list of token ids; none for embedded prompts."""
        prompt = request.prompt
        if prompt is None:
            if request.prompt_embeds is not None:
                return []
            raise missing("prompt", "the text to complete.")
        if isinstance(prompt, str):
            return [[prompt]]
        if not isinstance(prompt, list):
            return []  # the engine will refuse it
        if prompt and all(isinstance(token, int | float) for token in prompt):
            return [len(prompt)]
        # llama.cpp takes texts and tokens in one prompt; then the tokens are not counted.
        return [[p] if isinstance(p, str) else len(p) for p in prompt if isinstance(p, str | list)]

    def predictor_text(self, body: JsonObject, prompts: list[Prompt]) -> str | None:
        """Return the first text. It represents all prompts of the body, which are one job."""
        texts = [prompt[0] for prompt in prompts if isinstance(prompt, list)]
        return clip(texts[0]) if texts else None

    def is_partial(self, choice: JsonObject) -> bool:
        """Return False: the choices of a chunk and of a complete response look alike."""
        return False

    def delta(self, choice: JsonObject) -> JsonObject:
        """Return the choice's `text`."""
        return {"text": choice.get("text")}

    def with_delta(self, choice: JsonObject, delta: JsonObject) -> JsonObject:
        """Replace the `text`."""
        return choice | {"text": delta.get("text", "")}

    def add_delta(self, choice: JsonObject, delta: Any) -> None:
        """Append the text."""
        choice["text"] = choice.get("text", "") + (delta or "")

    def complete(self, choice: JsonObject) -> None:
        """Add an empty text if there is none."""
        choice.setdefault("text", "")


COMPLETIONS = CompletionsEndpoint()
