"""What `lengthwise lab run` reads: a question about schedules, in TOML or JSON."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lengthwise_lab.errors import BadWorkload
from lengthwise_lab.simulator.core.cost_model import Batching, Engine
from lengthwise_lab.simulator.experiment import Limits
from lengthwise_lab.simulator.policies import policy_named
from lengthwise_lab.simulator.workloads.arrivals import Arrivals, Burst, Closed, Poisson, Trace
from lengthwise_lab.simulator.workloads.lengths import (
    PUBLISHED,
    Lengths,
    exponential,
    fixed,
    log_normal,
    published,
    read_lengths,
)
from lengthwise_lab.simulator.workloads.workload import Workload


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LengthsConfig(_Part):
    """Where lengths come from."""

    kind: Literal["published", "log-normal", "exponential", "fixed", "file"] = "published"
    name: str = Field(default="ssjf", description="Of published quantiles")
    file: str = Field(default="", description="CSV or JSONL; with --data: a name in that folder")
    model: str = Field(default="", description="Only this LLM's rows of the file")
    source: str = Field(default="", description="Only this data set's rows of the file")
    mean: float = Field(default=200.0, gt=0, description="Output tokens")
    cv: float = Field(default=1.0, ge=0, description="Standard deviation over mean, log-normal")
    prompt_mean: float = Field(default=200.0, gt=0, description="Tokens")
    prompt_cv: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.kind == "published" and self.name not in PUBLISHED:
            raise ValueError(
                f"no published lengths {self.name!r}; there are {', '.join(PUBLISHED)}"
            )
        if self.kind == "file" and not self.file:
            raise ValueError("lengths of kind file want a file")
        return self

    def table(self, data: Path | None) -> Lengths:
        """The lengths to draw from."""
        prompts = {"prompt_mean": self.prompt_mean, "prompt_cv": self.prompt_cv}
        if self.kind == "published":
            return published(self.name)
        if self.kind == "log-normal":
            return log_normal(self.mean, self.cv, **prompts)
        if self.kind == "exponential":
            return exponential(self.mean, **prompts)
        if self.kind == "fixed":
            return fixed(round(self.mean), **prompts)
        path = Path(self.file)
        if not path.exists() and data is not None:
            path = data / self.file
        return read_lengths(path, model=self.model, source=self.source)


class PredictorConfig(_Part):
    """What is known of a length before it is generated."""

    name: Literal["oracle", "noisy", "reversed", "constant", "random", "recorded"] = "noisy"
    tau: float | None = Field(default=0.6, gt=0, lt=1, description="Of a noisy one")


class Tenant(_Part):
    """One of those who share the engine."""

    share: float = Field(gt=0, description="Of the requests; shares add up to 1")
    weight: float = Field(default=1.0, gt=0, description="Of the engine that it is due")


class Question(_Part):
    """One workload on one engine, under several policies."""

    title: str = "a question"
    policies: list[str] = Field(min_length=1)
    requests: int = Field(default=20_000, ge=1)
    load: float | None = Field(default=None, gt=0, description="Arrivals over what is possible")
    rate_per_s: float | None = Field(default=None, gt=0, description="Arrivals a second")
    seeds: list[int] = Field(default=[1], min_length=1)
    warm_up: int = Field(default=0, ge=0, description="First requests that do not count")
    stop_after: int | None = Field(default=None, ge=1, description="Ended requests")
    stop_at_s: float | None = Field(default=None, gt=0, description="Simulated time")
    pair_accuracy: float = Field(default=0.8, ge=0, le=1, description="Of ssjf-pairwise")
    in_order: bool = Field(default=False, description="Take the file's rows in their order")
    engine: Engine = Field(default_factory=Batching)
    arrivals: Arrivals = Field(default_factory=Poisson)
    lengths: LengthsConfig = Field(default_factory=LengthsConfig)
    predictor: PredictorConfig = Field(default_factory=PredictorConfig)
    tenants: list[Tenant] = Field(default=[Tenant(share=1.0)], min_length=1)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        timed = isinstance(self.arrivals, Burst | Trace | Closed)
        if not timed and (self.load is None) == (self.rate_per_s is None):
            raise ValueError("give either load or rate_per_s")
        if abs(sum(tenant.share for tenant in self.tenants) - 1) > 1e-6:
            raise ValueError("the tenants' shares must add up to 1")
        for name in self.policies:
            policy_named(name)
        return self

    def workload(self, seed: int, data: Path | None) -> Workload:
        """What comes, for one seed."""
        lengths = self.lengths.table(data)
        rate = self.rate_per_s or 1.0
        if self.load is not None:
            work = self.engine.seconds_of_work(
                lengths.prompt.astype(float), lengths.output.astype(float)
            )
            rate = self.load / float(work.mean())
        return Workload(
            lengths=lengths,
            requests=self.requests,
            rate_per_s=rate,
            arrivals=self.arrivals,
            predictor=self.predictor.name,
            tau=self.predictor.tau if self.predictor.name == "noisy" else None,
            shares=tuple(tenant.share for tenant in self.tenants),
            seed=seed,
            in_order=self.in_order,
        )

    def limits(self) -> Limits:
        """When a run ends early, and what of it counts."""
        closed = self.arrivals if isinstance(self.arrivals, Closed) else None
        return Limits(
            stop_after=self.stop_after,
            stop_at_s=self.stop_at_s or float("inf"),
            warm_up=self.warm_up,
            clients=closed.clients if closed else 0,
            think_s=closed.think_s if closed else 0.0,
        )


_Question = TypeVar("_Question", bound=BaseModel)


def read_question(path: Path) -> Question:
    """A question from a TOML or JSON file.

    Raises:
        BadWorkload: The file cannot be read, or says something that is not possible; the message
            has one line for each field.
        BadChoice: A policy is not one that there is.
    """
    return validated(path, read_values(path), Question)


def read_values(path: Path) -> Any:
    """What a TOML or JSON file holds.

    Raises:
        BadWorkload: It cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as exc:
        raise BadWorkload(f"cannot read {path}: {exc}") from exc


def validated(path: Path, values: Any, form: type[_Question]) -> _Question:
    """The values of a file as a question of that form; raises as `read_question` does."""
    try:
        return form.model_validate(values)
    except ValidationError as exc:
        faults = [
            f"  {'.'.join(str(part) for part in fault['loc']) or 'all of it'}: {fault['msg']}"
            for fault in exc.errors()
        ]
        raise BadWorkload("\n".join([f"{path} is not a question for the lab:", *faults])) from exc
