"""The predictor's HTTP API: predict the length of an answer, and order prompts by it.

Used by the predictor, which serves it, and by the queue service, the command line and the lab,
which ask. All lengths are output tokens of the LLM that will answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lengthwise_contract.bodies import Body, View

#: Whether a queue's predictions are good enough to order its jobs. `insufficient_data`: too few
#: answers have come to judge them.
PredictionQuality = Literal["healthy", "degraded", "insufficient_data"]


#: Whose prediction a job is ordered by: the predictor's (`static`), one learned from all finished
#: jobs of the queue (`learned`), or one learned from its newest ones (`young`).
PredictionCandidate = Literal["static", "learned", "young"]


class PredictRequest(Body):
    """`POST /v1/predict`: predict the length of one answer.

    Exactly one of `prompt` and `messages` is given. `messages` are rendered by
    `lengthwise_contract.prompts.render_request`: without the leading system messages, which are the
    same for all requests of an application and would fill the window that the predictor reads.
    The fields from `application` to `adapter` are the facts of the request beside its text.
    """

    model: str = Field(min_length=1, max_length=256, description="Name of the LLM that will answer")
    prompt: str | None = Field(
        default=None, description="The text of a completion request; null: `messages` is given"
    )
    messages: list[dict[str, Any]] | None = Field(
        default=None, max_length=10_000, description="Chat messages; null: `prompt` is given"
    )
    predictor: str | None = Field(
        default=None,
        max_length=256,
        description="Which of the served models predicts; null: that of the LLM, or the default",
    )
    application: str | None = Field(
        default=None,
        max_length=256,
        description="Names the application: requests with one system prompt, or one template, have "
        "the same name; null: unknown",
    )
    tools: list[dict[str, Any]] | None = Field(
        default=None, max_length=1024, description="The tools offered, as in a chat request"
    )
    tool_choice: str | dict[str, Any] | None = Field(
        default=None, description="As in a chat request"
    )
    response_format: dict[str, Any] | None = Field(default=None, description="As in a chat request")
    reasoning_effort: str | None = Field(
        default=None, max_length=64, description="As in a chat request"
    )
    thinking_budget_tokens: int | None = Field(
        default=None, ge=0, description="The most tokens that the LLM may think, if it is limited"
    )
    n: int | None = Field(default=None, ge=1, description="How many answers the request asks for")
    max_tokens: int | None = Field(
        default=None, ge=1, description="The request's cap on one answer, tokens"
    )
    stop: str | list[str] | None = Field(default=None, description="As in a chat request")
    temperature: float | None = Field(default=None, ge=0, description="As in a chat request")
    adapter: str | None = Field(
        default=None, max_length=256, description="The LLM's adapter that answers; null: none"
    )
    view: bool = Field(
        default=False, description="Whether the prediction shall carry its `view` of the request"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> PredictRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of `prompt` and `messages`")
        return self


class Prediction(View):
    """The predicted length of one answer, as quantiles of a distribution.

    `p10_tokens <= p50_tokens <= p90_tokens`.
    """

    model_version: str = Field(description="The version of the predictor that made the prediction")
    p10_tokens: float = Field(gt=0, description="10 % of such answers are shorter, tokens")
    p50_tokens: float = Field(gt=0, description="The median length of such answers, tokens")
    p90_tokens: float = Field(gt=0, description="90 % of such answers are shorter, tokens")
    mean_tokens: float = Field(gt=0, description="The mean length of such answers, tokens")
    rank_score: float = Field(
        description="Orders the answers of one LLM by length; has no unit, only its order matters"
    )
    view: str | None = Field(
        default=None,
        description="What the predictor saw of the request, base64, from which the queue service "
        "learns; null: not asked for, or the model has none",
    )


class PredictBatchRequest(Body):
    """`POST /v1/predict/batch`: many predictions, returned in the order of the inputs."""

    inputs: list[PredictRequest] = Field(min_length=1, max_length=1024)


class PredictBatchResponse(Body):
    """The predictions for a `PredictBatchRequest`, in its order."""

    predictions: list[Prediction]


class RankRequest(Body):
    """`POST /v1/rank`: order prompts by the length of their answers."""

    model: str = Field(min_length=1, max_length=256, description="Name of the LLM that will answer")
    prompts: list[str | Annotated[list[dict[str, Any]], Field(max_length=10_000)]] = Field(
        min_length=1, max_length=1024, description="Prompts, or chats as lists of messages"
    )
    predictor: str | None = Field(
        default=None,
        max_length=256,
        description="Which of the served models predicts; null: that of the LLM, or the default",
    )


class RankResponse(Body):
    """The answer to a `RankRequest`."""

    model_version: str = Field(description="The version of the predictor that ranked the prompts")
    order: list[int] = Field(description="Indexes of the prompts, the shortest answer first")
    scores: list[float] = Field(
        description="What the prompts are ordered by, one a prompt; has no unit"
    )
    p50_tokens: list[float] = Field(description="Predicted median lengths, one a prompt, tokens")
