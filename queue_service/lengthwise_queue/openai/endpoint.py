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
from lengthwise_queue.openai.validation import MAX_MODEL_NAME, MAX_TOKENS, OpenAIBody, validate

#: Most answers to one prompt; OpenAI's limit.
MAX_ANSWERS = 128

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
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = Field(
        default=None, ge=1, le=MAX_TOKENS, description="Longest answer, tokens"
    )
    n: int | None = Field(
        default=None, ge=1, le=MAX_ANSWERS, description="Number of answers to each prompt"
    )
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, Any] | None = None
    user: str | None = None


R = TypeVar("R", bound=GenerationRequest)


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
        max_tokens_param = self.max_tokens_param(request)
        return ParsedRequest(
            model=request.model,
            stream=request.stream is True,
            max_tokens=getattr(request, max_tokens_param),
            max_tokens_param=max_tokens_param,
            answers=max(len(prompts), 1) * (request.n or 1),
            text=self.predictor_text(body, prompts),
            prompts=prompts,
            prompt_param=self.prompt_param,
            messages=self.messages(body),
            instructions=self.instructions(body),
            facts=request_facts(body),
        )

    def max_tokens_param(self, request: R) -> str:
        """Return the field that limits the length of an answer."""
        return "max_tokens"

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
