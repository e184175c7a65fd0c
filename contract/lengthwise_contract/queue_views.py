"""The views of a queue: for an admin, for a tenant, and as a snapshot.

Used by the queue service, which serves these views, and by the operator, the command line and the
lab, which read them. Times are ms since the epoch, by the clock of Redis.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lengthwise_contract.bodies import View
from lengthwise_contract.prediction import PredictionCandidate, PredictionQuality
from lengthwise_contract.queue_settings import PolicyName, QueueClass, QueueMode, QueueSettings
from lengthwise_contract.states import JobState

#: The state of a worker's engine. Only one that is `ready` or `busy` counts as serving.
WorkerState = Literal["starting", "ready", "busy", "away", "failing"]


class WorkerView(View):
    """One worker, as of its last heartbeat."""

    id: str
    slots: int = Field(
        description="Jobs that the worker can run at once; 0 while its engine gets no work"
    )
    running: int = Field(description="Jobs that it runs")
    engine: str = Field(description="The kind of its engine")
    seen_ms: float = Field(description="When its last heartbeat came")
    state: WorkerState = Field(
        default="ready",
        description="Of its engine: `starting`, `ready`, `busy` (it asked for a pause), `away` "
        "(it does not answer, or serves another model) or `failing` (its calls fail)",
    )
    problem: str | None = Field(
        default=None, description="Why the engine gets no work; null: it gets work"
    )


class TenantBacklogView(View):
    """The jobs of one tenant in a queue."""

    tenant: str
    depth: int = Field(description="Jobs waiting")
    scheduled: int = Field(description="Jobs that wait for a delay or a retry")
    dead: int = Field(description="Dead letters")
    virtual_time: float = Field(
        description="Tokens received / weight; the tenant with the smallest is served next"
    )


class QueueLearningView(View):
    """What a queue learned from its finished jobs, and what it is worth."""

    serving: PredictionCandidate = Field(description="Whose predictions the queue serves")
    jobs: int = Field(description="Finished jobs that were learned from so far")
    fits: int = Field(description="How often it learned so far")
    fitted_jobs: int = Field(description="Finished jobs that the last fit rests on")
    fit_seconds: float | None = Field(description="How long the last fit took, s; null: none yet")
    fitted_ms: float | None = Field(description="When the last fit was made; null: none yet")
    tau_static: float | None = Field(
        description="Kendall's rank correlation of the predictor's lengths and the real ones, over "
        "the last answers for which something was learned; null: too few"
    )
    tau_learned: float | None = Field(description="The same of the learned lengths")
    tau_young: float | None = Field(description="The same of those learned from the newest jobs")
    tau_served: float | None = Field(description="The same of the lengths that were served")
    accuracy_static: float | None = Field(
        description="Share of pairs of these answers, one at least 1.25 times as long as the "
        "other, that the predictor put in the right order; null: too few"
    )
    accuracy_learned: float | None = Field(description="The same of the learned lengths")
    accuracy_young: float | None = Field(description="The same of those learned from the newest")


class QueueView(View):
    """`GET /v1/queues/{name}` as an admin sees it: the settings and figures of the queue."""

    name: str
    settings: QueueSettings = Field(
        description="In force: what people set, else what the workers published, else the default"
    )
    settings_set: list[str] = Field(
        default_factory=list, description="The settings that people set, by name"
    )
    published: dict[str, Any] = Field(
        default_factory=dict,
        description="What the workers reported of their engine; in force where people set nothing",
    )
    mode: QueueMode = "open"
    active_policy: PolicyName = Field(default="sjf", description="The policy in force now")
    fallback: bool = Field(
        default=False,
        description="Whether `sjf` is suspended, because the predictions are degraded",
    )
    rank_accuracy: float | None = Field(
        default=None,
        description="Share of pairs of the last answers that were predicted in the right order; "
        "pairs whose predictions differ by less than half do not count; 0.5: a coin; null: too "
        "few answers",
    )
    tau_b: float | None = Field(
        default=None,
        description="Kendall's rank correlation of the predicted and the real lengths of the last "
        "answers, -1 to 1; null: too few answers",
    )
    coverage: float | None = Field(
        default=None,
        description="Share of the last answers within their calibrated p10 to p90; 0.8 is right; "
        "null: no answers",
    )
    raw_coverage: float | None = Field(
        default=None,
        description="The same before calibration, as the predictor returned the quantiles",
    )
    calibration_samples: int = Field(
        default=0, description="Answers that the correction of the newest predictor rests on"
    )
    calibration_factor: float = Field(
        default=1.0, description="Calibrated / predicted median, geometric mean over these answers"
    )
    prediction_quality: PredictionQuality = Field(
        default="insufficient_data",
        description="`healthy`: the predictions order the queue; `degraded`: `sjf` is suspended, "
        "because their order is wrong too often; `insufficient_data`: too few answers to judge",
    )
    learning: QueueLearningView | None = Field(
        default=None, description="What the queue learned; null: its setting `learning` is `off`"
    )
    mean_wait_seconds: float | None = Field(
        default=None,
        description="From acceptance to the first start, mean over all jobs so far, s; null: no "
        "job has started",
    )
    mean_fcfs_wait_seconds: float | None = Field(
        default=None,
        description="The mean that `fcfs` would have given the same jobs, s; null: no job has "
        "started",
    )
    depth: int = Field(description="Jobs waiting")
    scheduled: int = Field(description="Jobs that wait for a delay or a retry")
    in_flight: int = Field(description="Jobs running")
    dead: int = Field(description="Dead letters: jobs that failed and were not redriven")
    backlog_tokens: float = Field(description="Predicted output tokens of the waiting jobs")
    backlog_seconds: float | None = Field(
        description="Time to serve the waiting jobs at the measured speed, s; null: no worker"
    )
    oldest_wait_seconds: float = Field(
        description="How long the oldest waiting job has waited, s; 0: no job waits"
    )
    ms_per_token: float = Field(description="What one output token costs, ms; measured, or assumed")
    median_tokens: float = Field(
        description="Median length of the last answers, tokens; measured, or assumed"
    )
    accepted: int = Field(description="Jobs accepted so far")
    succeeded: int = Field(description="Jobs that have succeeded so far")
    failed: int = Field(description="Jobs that have failed so far")
    cancelled: int = Field(description="Jobs that have been cancelled so far")
    expired: int = Field(description="Jobs that have expired so far")
    fallbacks: int = Field(description="Jobs accepted so far without a prediction")
    workers: list[WorkerView]
    tenants: list[TenantBacklogView] = Field(default_factory=list)


class TenantQueueView(View):
    """`GET /v1/queues/{name}` as a tenant sees it: its own jobs, and how long a job would wait."""

    name: str
    mode: QueueMode
    active_policy: PolicyName = Field(description="The policy in force now")
    depth: int = Field(description="Your jobs waiting")
    scheduled: int = Field(description="Your jobs that wait for a delay or a retry")
    dead: int = Field(description="Your dead letters")
    max_depth: int = Field(description="Most jobs of yours that may wait")
    predicted_wait_seconds: float | None = Field(
        description="How long a job that you submit now is predicted to wait, s; null: no worker"
    )
    classes: list[QueueClass]
    max_model_len: int | None = Field(
        description="Context of the model, prompt and answer, tokens; null: only the engine checks"
    )


class QueueList(View):
    """`GET /v1/queues`: the queues that the caller may use."""

    object: Literal["list"] = "list"
    data: list[QueueView] | list[TenantQueueView]


class QueueRemoved(View):
    """`DELETE /v1/queues/{name}`: the queue is gone."""

    name: str
    deleted: Literal[True] = True


class SnapshotEntry(View):
    """One job of a snapshot. The text of its prompt is never shown."""

    id: str
    tenant: str = Field(default="default", description="The tenant that submitted the job")
    state: JobState
    job_class: str = Field(
        validation_alias="class", serialization_alias="class", description="Its service class"
    )
    predicted_tokens: float = Field(description="The length it is ordered by, output tokens")
    output_tokens: int | None = Field(description="Length of its answer; null: not known yet")
    accepted_ms: float = Field(description="When it was accepted")
    due_ms: float = Field(description="Its due time: the waiting job with the smallest is next")
    started_ms: float | None = Field(description="When a worker first claimed it; null: not yet")
    finished_ms: float | None = Field(description="When it ended; null: it has not ended")


class SnapshotView(View):
    """`GET /v1/queues/{name}/snapshot`: the next jobs, those running, and the last finished."""

    now_ms: float = Field(description="When the snapshot was taken")
    waiting: list[SnapshotEntry] = Field(description="The next jobs, the first to start first")
    running: list[SnapshotEntry]
    finished: list[SnapshotEntry] = Field(description="The last finished, the newest first")
