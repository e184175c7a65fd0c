"""Bodies of the HTTP APIs that two Lengthwise processes, or a user and one of them, must agree on.

The unit of every number is in its field's name. Called by the queue service, the predictor, the
worker, the command line and the lab; imports nothing of theirs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lengthwise_contract.states import JobState

#: The engine paths that a job may ask for.
EndpointPath = Literal["/v1/chat/completions", "/v1/completions"]

#: Order of service of one queue; see docs/concepts/ordering.md.
PolicyName = Literal["sjf", "fcfs", "shadow"]

#: How a queue is run: takes and serves; takes but does not serve; serves but does not take.
QueueMode = Literal["open", "paused", "draining"]


class Body(BaseModel):
    """A body we define: an unknown field is an error that names it, never silently dropped."""

    model_config = ConfigDict(extra="forbid")


class View(BaseModel):
    """A body we send: whoever reads it passes over what a newer sender has added."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class ErrorObject(View):
    """What went wrong, in OpenAI's form; `message` says what to do, `code` is stable."""

    message: str
    type: str
    param: str | None = Field(description="The field, parameter or header that is wrong")
    code: str | None


class ErrorBody(View):
    """The body of every error."""

    error: ErrorObject


# ------------------------------------------------------------------------------- the predictor


class PredictRequest(Body):
    """`POST /v1/predict`: how long will this answer be?

    Exactly one of `prompt` and `messages` is given. `messages` are rendered by
    `lengthwise_contract.prompts.render_prompt`, as in training.
    """

    model: str = Field(min_length=1, max_length=256, description="Name of the LLM that will answer")
    prompt: str | None = Field(default=None, description="The text of a completion request")
    messages: list[dict[str, Any]] | None = Field(
        default=None, max_length=10_000, description="Chat messages"
    )
    predictor: str | None = Field(
        default=None,
        max_length=256,
        description="Which of the served models predicts; null: that of the LLM, or the default",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> PredictRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of `prompt` and `messages`")
        return self


class Prediction(Body):
    """The predicted length of one answer, as quantiles of a distribution.

    `p10_tokens <= p50_tokens <= p90_tokens`; all are output tokens of the LLM asked about, > 0.
    `rank_score` orders answers of one LLM by length, and only its order means anything.
    """

    model_version: str = Field(description="Which predictor said so")
    p10_tokens: float = Field(gt=0)
    p50_tokens: float = Field(gt=0)
    p90_tokens: float = Field(gt=0)
    mean_tokens: float = Field(gt=0)
    rank_score: float


class PredictBatchRequest(Body):
    """`POST /v1/predict/batch`: many at once, answered in the same order."""

    inputs: list[PredictRequest] = Field(min_length=1, max_length=1024)


class PredictBatchResponse(Body):
    """The answers to a `PredictBatchRequest`, in its order."""

    predictions: list[Prediction]


class RankRequest(Body):
    """`POST /v1/rank`: which of these answers will be short?"""

    model: str = Field(min_length=1, max_length=256, description="Name of the LLM that will answer")
    prompts: list[str | Annotated[list[dict[str, Any]], Field(max_length=10_000)]] = Field(
        min_length=1, max_length=1024, description="Prompts, or chats as lists of messages"
    )
    predictor: str | None = Field(
        default=None, max_length=256, description="As in `PredictRequest`"
    )


class RankResponse(Body):
    """The answer to a `RankRequest`. `scores` and `p50_tokens` are in the order of the prompts."""

    model_version: str = Field(description="Which predictor said so")
    order: list[int] = Field(description="Places of the prompts, the shortest answer first")
    scores: list[float] = Field(description="What they are ordered by; only its order means much")
    p50_tokens: list[float]


# ------------------------------------------------------------------------------- jobs


class JobRequest(Body):
    """`POST /v1/jobs`: one request to an LLM, to be answered later.

    `body` is an OpenAI request body and reaches the engine untouched, except that
    `stream: true` is added where it says nothing about streaming, so that the job's own
    stream has tokens in it.
    """

    endpoint: EndpointPath = "/v1/chat/completions"
    body: dict[str, Any]
    job_class: str = Field(
        default="interactive", validation_alias="class", serialization_alias="class", max_length=63
    )
    max_attempts: int = Field(default=3, ge=1, le=20)
    delay_ms: int = Field(default=0, ge=0, le=30 * 86_400_000, description="Not before now + this")
    ttl_ms: int | None = Field(
        default=None,
        ge=1,
        le=30 * 86_400_000,
        description="Expires this long after its delay; null: the queue's",
    )

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class JobError(Body):
    """Why a job failed; `code` is stable, `message` says what to do."""

    code: str
    message: str
    status: int | None = Field(default=None, description="The engine's HTTP status, if it gave one")
    body: Any = Field(default=None, description="The engine's own error body, if it gave one")


class JobView(View):
    """`GET /v1/jobs/{id}`: a job as its owner sees it. Times: ms since the epoch, by Redis."""

    id: str
    object: Literal["job"] = "job"
    queue: str
    tenant: str = "default"
    endpoint: str
    job_class: str = Field(validation_alias="class", serialization_alias="class")
    state: JobState
    attempt: int = Field(description="How often a worker has claimed it")
    accepted_ms: float
    started_ms: float | None = None
    first_output_ms: float | None = None
    finished_ms: float | None = None
    due_ms: float
    predicted_tokens: float
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cancel_requested: bool = False
    fcfs_wait_ms: float | None = Field(
        default=None,
        description="What it would have waited first come, first served; null: not known yet",
    )
    error: JobError | None = None
    response: dict[str, Any] | None = Field(
        default=None,
        description="The OpenAI response; while running, what there is of it; null in listings",
    )


class JobList(View):
    """A part of a listing of jobs. It may be short, even empty, and yet not be the last."""

    object: Literal["list"] = "list"
    data: list[JobView]
    has_more: bool
    next_after: str | None = Field(description="Give it as `after` to go on; null: this is the end")


class RedriveReport(View):
    """What became of some dead letters."""

    redriven: int = Field(description="Back in the line, with all their attempts")
    unreadable: int = Field(description="Cannot be served again: their requests are gone")
    has_more: bool = Field(description="Whether there are more dead letters; ask again")
    next_after: str | None = Field(description="Give it as `after`, to pass over the unreadable")


class LengthQuantiles(View):
    """The length of one answer, as quantiles, tokens."""

    p10_tokens: float
    p50_tokens: float
    p90_tokens: float


#: What is held of a predictor now: it orders the line; it does not, for its order is wrong; nobody
#: can tell yet.
PredictionQuality = Literal["healthy", "degraded", "insufficient_data"]


class Explanation(View):
    """`GET /v1/jobs/{id}/explain`: why the job stands where it stands."""

    id: str
    queue: str
    state: JobState
    tenant: str = "default"
    policy: PolicyName = Field(description="In force when the job came")
    active_policy: PolicyName = Field(default="sjf", description="In force now")
    fallback: bool = Field(
        default=False, description="`sjf` is suspended: its predictions were found useless"
    )
    mode: QueueMode = "open"
    prediction: Prediction | None = Field(
        description="As the predictor said it; null: it did not answer in time"
    )
    calibrated: LengthQuantiles | None = Field(
        default=None,
        description="The same, corrected by what answers were when the job came; null: it was not",
    )
    calibration_samples: int = Field(
        default=0, description="Answers that the correction of its predictor rests on now"
    )
    rank_accuracy: float | None = Field(
        default=None, description="As of its queue; null: too few answers to tell"
    )
    prediction_quality: PredictionQuality = Field(
        default="insufficient_data", description="What is held of the predictor now"
    )
    predicted_tokens: float
    ms_per_token: float = Field(description="Measured; what one output token costs here, ms")
    predicted_ms: float
    overtake_factor: float
    overtake_bound_ms: float = Field(
        default=0,
        description="No job of its class that was accepted more than this later goes first; ms, "
        "settled when it came",
    )
    class_offset_ms: float
    accepted_ms: float
    due_ms: float
    position: int | None = Field(
        description="How many of its tenant's jobs are ahead; null: not waiting"
    )
    tokens_ahead: float | None = Field(
        description="Predicted tokens to be served before it, of other tenants too"
    )
    estimated_start_ms: float | None = Field(description="ms since the epoch; null: unknown")
    fcfs_wait_ms: float | None = Field(
        default=None, description="What it would have waited first come, first served"
    )
    why: str


# ------------------------------------------------------------------------------- queues


class QueueClass(Body):
    """A service class: a fixed head start or handicap; it ages like every other."""

    name: str = Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    offset_ms: float = Field(ge=0, le=30 * 86_400_000, description="Added to the due time, ms")


class QueueSettings(Body):
    """`PUT /v1/queues/{name}`: how one model's queue behaves; stored in Redis, read by all."""

    policy: PolicyName = "sjf"
    overtake_factor: float = Field(default=3.0, ge=0, le=1000, description="k; 0 is FCFS")
    overtake_wait_factor: float = Field(
        default=2.0,
        ge=0,
        le=100,
        description="A long answer may be overtaken for up to this many times the wait that it "
        "found, if that is more than k times its predicted length; 0: k alone",
    )
    classes: list[QueueClass] = Field(
        default_factory=lambda: [
            QueueClass(name="interactive", offset_ms=0),
            QueueClass(name="batch", offset_ms=600_000),
        ],
        min_length=1,
        max_length=16,
    )
    max_depth: int = Field(default=10_000, ge=1, le=10_000_000, description="429 above this")
    max_wait_ms: int | None = Field(
        default=None,
        ge=1000,
        le=30 * 86_400_000,
        description="429 while a new job of the tenant would wait longer than this, as predicted; "
        "null: it may wait",
    )
    request_ttl_ms: int = Field(default=600_000, ge=1000, le=30 * 86_400_000)
    default_tokens: float = Field(
        default=256, gt=0, description="Length assumed before any job has finished, tokens"
    )
    default_ms_per_token: float = Field(
        default=20, gt=0, description="Speed assumed before any job has finished, ms"
    )
    min_rank_accuracy: float | None = Field(
        default=0.6,
        ge=0.5,
        lt=1,
        description="`sjf` is suspended while fewer pairs of the last answers, 32 to 256 of them, "
        "were predicted in the right order; 0.5 is a coin, 1 perfect; null: never",
    )
    drift_window_ms: int | None = Field(
        default=3_600_000,
        ge=60_000,
        le=30 * 86_400_000,
        description="Answers older than this tell nothing of the predictor as it is now; null: the "
        "last 256 do, whatever their age",
    )
    calibrate: bool = Field(
        default=True,
        description="Predicted lengths are corrected by what the last answers were; prompts of one "
        "length keep their order",
    )
    predictor_url: str | None = Field(
        default=None,
        max_length=512,
        pattern=r"^(https?://[^/\s]+\S*)?$",
        description="Base URL of its own predictor; null: the queue service's; empty: none",
    )
    max_model_len: int | None = Field(
        default=None, ge=1, description="Context of the model, tokens; null: the engine decides"
    )
    tokenizer: str | None = Field(
        default=None, description="Path of the model's tokenizer.json; null: prompts are estimated"
    )

    record_rows: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Keep the last so many (request, length) in Redis, to train a predictor on: "
        "prompts of all tenants, unencrypted, for whoever may read Redis; 0: none",
    )
    record_ttl_ms: int = Field(
        default=7 * 86_400_000,
        ge=60_000,
        le=90 * 86_400_000,
        description="Each of these for so long at most",
    )

    @model_validator(mode="after")
    def _distinct_classes(self) -> QueueSettings:
        names = [c.name for c in self.classes]
        if len(set(names)) != len(names):
            raise ValueError(f"class names must be distinct, got {names}")
        return self


class WorkerView(View):
    """One worker, from its last heartbeat."""

    id: str
    slots: int
    running: int
    engine: str
    seen_ms: float


class TenantBacklogView(View):
    """What one tenant has in a queue."""

    tenant: str
    depth: int
    scheduled: int
    dead: int
    virtual_time: float = Field(description="Tokens received / weight; the smallest is next")


class QueueView(View):
    """`GET /v1/queues/{name}`: the line as it stands, as an admin sees it."""

    name: str
    settings: QueueSettings
    mode: QueueMode = "open"
    active_policy: PolicyName = Field(default="sjf", description="What is really served")
    fallback: bool = Field(
        default=False, description="`sjf` is suspended: its predictions were found useless"
    )
    rank_accuracy: float | None = Field(
        default=None,
        description="Pairs of the last answers whose predictions name the longer one, 0 to 1; of "
        "those that it tells apart by half; 0.5: a coin; null: too few",
    )
    tau_b: float | None = Field(
        default=None,
        description="Kendall's rank correlation of predicted and real lengths of all of them",
    )
    coverage: float | None = Field(
        default=None, description="Share of them within their calibrated p10 to p90; 0.8 is honest"
    )
    raw_coverage: float | None = Field(
        default=None, description="The same before calibration, as the predictor said it"
    )
    calibration_samples: int = Field(
        default=0, description="Answers that the correction of the newest predictor rests on"
    )
    calibration_factor: float = Field(
        default=1.0, description="Calibrated over predicted median, on average over these"
    )
    prediction_quality: PredictionQuality = Field(
        default="insufficient_data", description="What is held of the predictor now"
    )
    mean_wait_seconds: float | None = Field(
        default=None, description="Of all jobs so far, until their first start"
    )
    mean_fcfs_wait_seconds: float | None = Field(
        default=None, description="What first come, first served would have made of it"
    )
    depth: int = Field(description="Jobs waiting")
    scheduled: int
    in_flight: int
    dead: int
    backlog_tokens: float = Field(description="Predicted tokens of the waiting jobs")
    backlog_seconds: float | None = Field(description="At the measured speed; null: no worker")
    oldest_wait_seconds: float
    ms_per_token: float
    median_tokens: float
    accepted: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    fallbacks: int = Field(description="Jobs accepted without an answer from the predictor")
    workers: list[WorkerView]
    tenants: list[TenantBacklogView] = Field(default_factory=list)


class TenantQueueView(View):
    """`GET /v1/queues/{name}`, as a tenant sees it: its own jobs, and how long it would wait."""

    name: str
    mode: QueueMode
    active_policy: PolicyName
    depth: int = Field(description="Your jobs waiting")
    scheduled: int = Field(description="Your jobs that are not to be served yet")
    dead: int = Field(description="Your dead letters")
    max_depth: int = Field(description="How many of your jobs may wait")
    predicted_wait_seconds: float | None = Field(
        description="Of a job that you would send now; null: no worker"
    )
    classes: list[QueueClass]
    max_model_len: int | None


class QueueList(View):
    """`GET /v1/queues`: those that one may use."""

    object: Literal["list"] = "list"
    data: list[QueueView] | list[TenantQueueView]


class SnapshotEntry(View):
    """One job of the line, for `lengthwise top`; the text of prompts is never shown."""

    id: str
    tenant: str = "default"
    state: JobState
    job_class: str = Field(validation_alias="class", serialization_alias="class")
    predicted_tokens: float
    output_tokens: int | None
    accepted_ms: float
    due_ms: float
    started_ms: float | None
    finished_ms: float | None


class SnapshotView(View):
    """`GET /v1/queues/{name}/snapshot`: the next jobs, those running, and the last finished."""

    now_ms: float
    waiting: list[SnapshotEntry]
    running: list[SnapshotEntry]
    finished: list[SnapshotEntry]
