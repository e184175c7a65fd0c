"""The bodies of the jobs API: a submitted job, and the views of jobs.

Used by the queue service, which serves it, and by the command line and the lab, which use it.
Times are ms since the epoch, by the clock of Redis.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from lengthwise_contract.bodies import Body, View
from lengthwise_contract.defaults import MAX_ATTEMPTS
from lengthwise_contract.states import JobState

#: The paths of the engine that a job may request.
EndpointPath = Literal["/v1/chat/completions", "/v1/completions"]


class JobRequest(Body):
    """`POST /v1/jobs`: one request to an LLM, to be answered later."""

    endpoint: EndpointPath = Field(
        default="/v1/chat/completions", description="The path of the engine that `body` is sent to"
    )
    body: dict[str, Any] = Field(
        description="An OpenAI request body. It reaches the engine unchanged, except that "
        "`stream: true` is added where it has no `stream`, so that the job's stream carries tokens"
    )
    job_class: str = Field(
        default="interactive",
        validation_alias="class",
        serialization_alias="class",
        max_length=63,
        description="One of the queue's classes",
    )
    max_attempts: int = Field(
        default=MAX_ATTEMPTS, ge=1, le=20, description="How often the job may be tried in all"
    )
    delay_ms: int = Field(
        default=0,
        ge=0,
        le=30 * 86_400_000,
        description="The job starts no earlier than this after it was accepted, ms",
    )
    ttl_ms: int | None = Field(
        default=None,
        ge=1,
        le=30 * 86_400_000,
        description="The job expires this long after its delay, ms; null: after the queue's "
        "`request_ttl_ms`",
    )

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class JobError(Body):
    """The cause of a job's failure."""

    code: str = Field(description="A stable name of the error")
    message: str = Field(description="What is wrong, and what to do about it")
    status: int | None = Field(
        default=None, description="HTTP status of the engine's response; null: it did not respond"
    )
    body: Any = Field(
        default=None, description="The engine's own error body; null: it returned none"
    )


class JobView(View):
    """`GET /v1/jobs/{id}`: a job as its owner sees it."""

    id: str = Field(description="A UUID; ids sort by time of submission")
    object: Literal["job"] = "job"
    queue: str = Field(description="The job's queue, which is named like its model")
    tenant: str = Field(default="default", description="The tenant that submitted the job")
    endpoint: str = Field(description="The path of the engine")
    job_class: str = Field(
        validation_alias="class", serialization_alias="class", description="Its service class"
    )
    state: JobState
    attempt: int = Field(description="How often a worker has claimed the job")
    accepted_ms: float = Field(description="When the job was accepted")
    started_ms: float | None = Field(
        default=None, description="When a worker first claimed it; null: not yet"
    )
    first_output_ms: float | None = Field(
        default=None, description="When its first output came; null: there is none yet"
    )
    finished_ms: float | None = Field(
        default=None, description="When it ended; null: it has not ended"
    )
    due_ms: float = Field(description="Its due time: the waiting job with the smallest is next")
    predicted_tokens: float = Field(description="The length it is ordered by, output tokens")
    prompt_tokens: int | None = Field(
        default=None, description="Length of its prompt, by the engine; null: not known yet"
    )
    output_tokens: int | None = Field(
        default=None, description="Length of its answer, by the engine; null: not known yet"
    )
    cancel_requested: bool = Field(
        default=False, description="Whether the running job is to be cancelled"
    )
    fcfs_wait_ms: float | None = Field(
        default=None,
        description="How long it would have waited under `fcfs`, ms; null: not known yet",
    )
    request_id: str | None = Field(
        default=None, description="The id of the request that submitted it; null: none did"
    )
    error: JobError | None = Field(default=None, description="null: the job has not failed")
    response: dict[str, Any] | None = Field(
        default=None,
        description="The OpenAI response; while the job runs, the part that exists; null: none "
        "yet, and in lists",
    )


class JobList(View):
    """One page of a list of jobs. A page may be short or empty, and yet not be the last."""

    object: Literal["list"] = "list"
    data: list[JobView]
    has_more: bool = Field(description="Whether there is another page")
    next_after: str | None = Field(
        description="The `after` of the next page; null: this page is the last"
    )


class RedriveReport(View):
    """`POST /v1/queues/{name}/dead/redrive`: what happened to one page of dead letters."""

    redriven: int = Field(description="Jobs that are back in the queue, with all their attempts")
    unreadable: int = Field(description="Jobs that stay, because their requests are gone")
    has_more: bool = Field(description="Whether there is another page of dead letters")
    next_after: str | None = Field(
        description="The `after` of the next page; it skips the unreadable jobs; null: no more"
    )
