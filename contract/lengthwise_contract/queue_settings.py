"""The settings of a queue, and their defaults.

The defaults stand here and nowhere else: the custom resource of the operator, the lab and the docs
read them from `QueueSettings`. tests/test_defaults.py compares the copies that are not Python.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from lengthwise_contract.bodies import Body

#: The order of service of a queue; docs/concepts/ordering.md explains each.
PolicyName = Literal["sjf", "fcfs", "shadow"]

#: Whether a queue learns from its finished jobs, and serves what it learned.
LearningMode = Literal["auto", "off", "shadow"]

#: How the words of finished requests are kept, from which a queue learns.
KeptWords = Literal["hashed", "readable"]

#: `open`: a queue accepts and serves jobs; `paused`: it only accepts; `draining`: it only serves.
QueueMode = Literal["open", "paused", "draining"]


#: The settings that a worker publishes, as its engine reports them. They are in force where people
#: set nothing.
PUBLISHED_FIELDS = frozenset({"max_model_len"})


def _zero_is_never(value: object) -> object:
    """Read 0 as null. A patch cannot say null: there it means the default."""
    return None if value == 0 and not isinstance(value, bool) else value


class QueueClass(Body):
    """A service class: a fixed handicap in the order of service. Jobs of every class age alike."""

    name: str = Field(
        min_length=1,
        max_length=63,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        description="The name that a job gives as its `class`",
    )
    offset_ms: float = Field(
        ge=0, le=30 * 86_400_000, description="Added to the due time of the jobs of the class, ms"
    )


class QueueSettings(Body):
    """`PUT /v1/queues/{name}`: how the queue of one model behaves. A missing field: its default."""

    policy: PolicyName = Field(
        default="sjf",
        description="`sjf`: short answers first, with credit for waiting; `fcfs`: in the order of "
        "acceptance; `shadow`: as `fcfs`, but predictions are made and recorded",
    )
    overtake_factor: float = Field(
        default=3.0,
        ge=0,
        le=1000,
        description="k: a job may be overtaken by jobs accepted up to k times its own predicted "
        "time later; 0: as `fcfs`",
    )
    overtake_wait_factor: float = Field(
        default=2.0,
        ge=0,
        le=100,
        description="A long answer may be overtaken for up to this many times the wait that it "
        "found when it was accepted, if that is more than k allows; 0: only k counts",
    )
    classes: list[QueueClass] = Field(
        default_factory=lambda: [
            QueueClass(name="interactive", offset_ms=0),
            QueueClass(name="batch", offset_ms=600_000),
        ],
        min_length=1,
        max_length=16,
        description="The service classes; the first is the default",
    )
    max_depth: int = Field(
        default=10_000,
        ge=1,
        le=10_000_000,
        description="Most jobs that may wait; a further job gets a 429",
    )
    max_wait_ms: int | None = Field(
        default=None,
        ge=1000,
        le=30 * 86_400_000,
        description="A job gets a 429 while it is predicted to wait longer than this, ms; null: "
        "no limit",
    )
    no_workers: Literal["wait", "refuse"] = Field(
        default="wait",
        description="What a new job meets while no worker serves the queue: `wait`: it waits for "
        "one; `refuse`: it gets a 503. The lines of batches always wait",
    )
    request_ttl_ms: int = Field(
        default=600_000,
        ge=1000,
        le=30 * 86_400_000,
        description="A job without a `ttl_ms` of its own expires this long after its delay, ms",
    )
    default_tokens: float = Field(
        default=256,
        gt=0,
        description="Length of an answer that is assumed until a job has finished, tokens",
    )
    default_ms_per_token: float = Field(
        default=20,
        gt=0,
        description="Cost of an output token that is assumed until a job has finished, ms",
    )
    min_rank_accuracy: Annotated[float | None, BeforeValidator(_zero_is_never)] = Field(
        default=0.6,
        ge=0.5,
        lt=1,
        description="`sjf` is suspended while fewer pairs of the last 32 to 256 answers were "
        "predicted in the right order, a share; 0.5: a coin, 1: perfect; 0: never suspended",
    )
    drift_window_ms: Annotated[int | None, BeforeValidator(_zero_is_never)] = Field(
        default=3_600_000,
        ge=60_000,
        le=30 * 86_400_000,
        description="Answers older than this are not used to judge the predictor, ms; 0: the "
        "last 256 are used, however old they are",
    )
    calibrate: bool = Field(
        default=True,
        description="Whether predicted lengths are corrected by the last answers; prompts of one "
        "length keep their order",
    )
    predictor_url: str | None = Field(
        default=None,
        max_length=512,
        pattern=r"^(https?://[^/\s]+\S*)?$",
        description="Base URL of the queue's own predictor; null: that of the queue service; "
        "empty: no predictor",
    )
    learning: LearningMode = Field(
        default="auto",
        description="Whether the queue learns lengths from its finished jobs. `auto`: what it "
        "learned is served while it orders answers at least as well as the predictor; `shadow`: "
        "it learns and serves the predictor; `off`: it does not learn",
    )
    keep_words: KeptWords = Field(
        default="hashed",
        description="How the words of finished requests are kept, from which the queue learns: as "
        "numbers keyed by a secret, or as numbers that anyone who reads Redis can turn back into "
        "words. A change deletes what was learned",
    )
    llm: str | None = Field(
        default=None,
        max_length=512,
        description="The LLM behind the queue, with its revision. After a change, lengths of the "
        "earlier LLM count less; null: it does not change",
    )
    max_model_len: int | None = Field(
        default=None,
        ge=1,
        description="Context of the model, prompt and answer, tokens; null: as the workers report "
        "it, and only the engine checks before that",
    )
    tokenizer: str | None = Field(
        default=None,
        description="Path of the model's tokenizer.json on the queue service's host; null: prompt "
        "lengths are estimated",
    )
    record_rows: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="How many of the last (request, length) rows are kept in Redis, to train a "
        "predictor; they hold the prompts of all tenants, unencrypted; 0: none",
    )
    record_ttl_ms: int = Field(
        default=7 * 86_400_000,
        ge=60_000,
        le=90 * 86_400_000,
        description="How long such a row is kept at most, ms",
    )

    @model_validator(mode="after")
    def _distinct_classes(self) -> QueueSettings:
        names = [c.name for c in self.classes]
        if len(set(names)) != len(names):
            raise ValueError(f"class names must be distinct, got {names}")
        return self
