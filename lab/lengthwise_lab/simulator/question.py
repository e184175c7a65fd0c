"""The question that `lengthwise lab run` reads from TOML or JSON: workload, engine, policies."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lengthwise_lab.errors import BadWorkload
from lengthwise_lab.simulator.engines import BatchingEngine, SimulatedEngine
from lengthwise_lab.simulator.policies import policy_named
from lengthwise_lab.simulator.simulation import RunLimits
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
    """The source of the lengths."""

    kind: Literal["published", "log-normal", "exponential", "fixed", "file"] = "published"
    name: str = Field(default="ssjf", description="The data set of published quantiles")
    file: str = Field(
        default="", description="CSV or JSONL; a path, or a name in the folder of --data"
    )
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
                f"no published lengths {self.name!r}; it must be one of {', '.join(PUBLISHED)}"
            )
        if self.kind == "file" and not self.file:
            raise ValueError("lengths of kind file need a file")
        return self

    def table(self, data: Path | None) -> Lengths:
        """Return the lengths to draw from."""
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
    """The predictions of the lengths."""

    name: Literal["oracle", "noisy", "reversed", "constant", "random", "recorded"] = "noisy"
    tau: float | None = Field(
        default=0.6, gt=0, lt=1, description="Kendall's tau-b of a noisy predictor"
    )


class TenantShare(_Part):
    """One of the tenants that share the engine."""

    share: float = Field(gt=0, description="Share of the requests; shares add up to 1")
    weight: float = Field(
        default=1.0,
        gt=0,
        description="Share of the engine that it should get, relative to the other tenants",
    )


class Question(_Part):
    """One workload on one engine, under several policies."""

    title: str = "a question"
    policies: list[str] = Field(min_length=1)
    requests: int = Field(default=20_000, ge=1)
    load: float | None = Field(
        default=None, gt=0, description="Arrivals over the engine's capacity"
    )
    rate_per_s: float | None = Field(default=None, gt=0, description="Arrivals a second")
    seeds: list[int] = Field(default=[1], min_length=1)
    warm_up: int = Field(default=0, ge=0, description="The first so many requests do not count")
    stop_after: int | None = Field(
        default=None, ge=1, description="End after so many finished requests"
    )
    stop_at_s: float | None = Field(default=None, gt=0, description="End at this simulated time, s")
    pair_accuracy: float = Field(
        default=0.8, ge=0, le=1, description="Accuracy of the comparisons of ssjf-pairwise"
    )
    in_order: bool = Field(default=False, description="Take the file's rows in their order")
    engine: SimulatedEngine = Field(default_factory=BatchingEngine)
    arrivals: Arrivals = Field(default_factory=Poisson)
    lengths: LengthsConfig = Field(default_factory=LengthsConfig)
    predictor: PredictorConfig = Field(default_factory=PredictorConfig)
    tenants: list[TenantShare] = Field(default=[TenantShare(share=1.0)], min_length=1)

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
        """Return the workload of one seed."""
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

    def limits(self) -> RunLimits:
        """Return when a run ends early, and which of its requests count."""
        closed = self.arrivals if isinstance(self.arrivals, Closed) else None
        return RunLimits(
            stop_after=self.stop_after,
            stop_at_s=self.stop_at_s or float("inf"),
            warm_up=self.warm_up,
            clients=closed.clients if closed else 0,
            think_s=closed.think_s if closed else 0.0,
        )


_Question = TypeVar("_Question", bound=BaseModel)


def read_question(path: Path) -> Question:
    """Read a question from a TOML or JSON file.

    Raises:
        BadWorkload: The file cannot be read, or a value is not valid; the message has one line for
            each field.
        BadChoice: There is no such policy.
    """
    return validated(path, read_values(path), Question)


def read_values(path: Path) -> Any:
    """Return the values of a TOML or JSON file.

    Raises:
        BadWorkload: The file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as exc:
        raise BadWorkload(f"cannot read {path}: {exc}") from exc


def validated(path: Path, values: Any, form: type[_Question]) -> _Question:
    """Return the values of a file as a question of that form; raises as `read_question` does."""
    try:
        return form.model_validate(values)
    except ValidationError as exc:
        faults = [
            f"  {'.'.join(str(part) for part in fault['loc']) or 'whole file'}: {fault['msg']}"
            for fault in exc.errors()
        ]
        raise BadWorkload(
            "\n".join([f"{path} is not a valid question for the lab:", *faults])
        ) from exc
