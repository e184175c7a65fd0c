"""The interface of an OpenAI endpoint that the queue serves. Pure.

One endpoint is one object, in a module of its own (`chat.py`, `completions.py`); `registry.py`
lists them. The endpoint knows how its body is checked, what the predictor reads of it, and how the
chunks of its streamed answer are built. Everything else is the same for all endpoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from pydantic import Field

from lengthwise_contract.jobs import EndpointPath
from lengthwise_contract.request_facts import request_facts
from lengthwise_queue.admission.parsed_request import ParsedRequest
from lengthwise_queue.openai.validation import (
    MAX_MODEL_NAME,
    MAX_TOKENS,
    Boolean,
    Integer,
    Number,
    Object,
    OpenAIBody,
    String,
    as_boolean,
    as_integer,
    validate,
)
from lengthwise_queue.scheduling.length_bounds import length_bounds

#: Most answers to one prompt that are reckoned with; vLLM's limit (VLLM_MAX_N_SEQUENCES).
MAX_ANSWERS = 16_384

JsonObject = dict[str, Any]

#: The texts of one prompt that the engine will certainly read, or the number of its token ids.
Prompt = list[str] | int


class GenerationRequest(OpenAIBody):
    """The fields that all endpoints have in common."""

    model: str = Field(
        min_length=1,
        max_length=MAX_MODEL_NAME,
        description="Name of the model. GET /v1/models lists the models",
    )
    # The engine checks the rest.
    stream: Boolean = None
    stream_options: Object = None
    max_tokens: Integer = Field(default=None, description="Longest answer, tokens")
    n: Integer = Field(default=None, description="Number of answers to each prompt")
    temperature: Number = None
    top_p: Number = None
    presence_penalty: Number = None
    frequency_penalty: Number = None
    seed: Integer = None
    stop: Any = None
    logit_bias: Object = None
    user: String = None


R = TypeVar("R", bound=GenerationRequest)


def _cap(value: Any) -> int | None:
    """Return the limit on an answer, tokens; None: there is none that can be reckoned with."""
    cap = as_integer(value)
    # llama.cpp reads -1 as no limit. vLLM takes 0 with `echo`, and generates one token.
    return None if cap is None or cap < 0 else min(max(cap, 1), MAX_TOKENS)


def _answers(value: Any) -> int:
    """Return the number of answers to each prompt."""
    return min(max(as_integer(value) or 1, 1), MAX_ANSWERS)


class Endpoint(ABC, Generic[R]):
    """One OpenAI endpoint. Its objects have no state."""

    path: EndpointPath
    name: str  #: Of the operation in the OpenAPI document.
    description: str  #: Likewise.
    request_model: type[R]
    object_name: str  #: Field `object` of a complete response.
    prompt_param: str  #: Field of the body that holds the prompt.
    delta_field: str  #: Field of a chunk's choice that holds the new part of the answer.

    def parse(self, body: JsonObject) -> ParsedRequest:
        """Validate a body and collect the facts that admission and delivery need.

        Raises:
            BadRequest: A field is missing or wrong; `param` names it.
        """
        request = validate(self.request_model, body)
        prompts = self.prompts(request, body)
        return ParsedRequest(
            model=request.model,
            stream=as_boolean(request.stream),
            max_tokens=_cap(self.max_tokens(request)),
            answers=max(len(prompts), 1) * max(_answers(request.n), _answers(body.get("best_of"))),
            text=self.predictor_text(body, prompts),
            prompts=prompts,
            prompt_param=self.prompt_param,
            prompt_texts=[body.get(self.prompt_param)],
            messages=self.messages(body),
            instructions=self.instructions(body),
            facts=request_facts(body),
            bounds=length_bounds(body),
        )

    def max_tokens(self, request: R) -> Any:
        """Return the field that limits the length of an answer, unchecked."""
        return request.max_tokens

    # --------------------------------------------------------------------------- the prompt

    @abstractmethod
    def prompts(self, request: R, body: JsonObject) -> list[Prompt]:
        """Return the prompts of a validated body.

        Raises:
            BadRequest: The body has no prompt.
        """

    @abstractmethod
    def predictor_text(self, body: JsonObject, prompts: list[Prompt]) -> str | None:
        """Return the text for the predictor, clipped; None: the body has no text."""

    def messages(self, body: JsonObject) -> list[JsonObject] | None:
        """Return the messages of a chat; None: the body has none."""
        return None

    def instructions(self, body: JsonObject) -> str:
        """Return the text of a chat's leading system messages; "": there is none."""
        return ""

    # --------------------------------------------------------------------------- the chunks

    @abstractmethod
    def is_partial(self, choice: JsonObject) -> bool:
        """Return whether a choice is certainly part of a stream, and not of a complete response."""

    @abstractmethod
    def delta(self, choice: JsonObject) -> JsonObject:
        """Return the new part of an answer that a chunk's choice holds, by field."""

    @abstractmethod
    def with_delta(self, choice: JsonObject, delta: JsonObject) -> JsonObject:
        """Return a copy of a chunk's choice with another new part."""

    @abstractmethod
    def add_delta(self, choice: JsonObject, delta: Any) -> None:
        """Add the new part that a chunk holds to a choice of the complete response."""

    @abstractmethod
    def complete(self, choice: JsonObject) -> None:
        """Fill in the fields that a choice of a complete response must have."""
