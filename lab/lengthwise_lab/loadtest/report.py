"""Compute the figures of a comparison from its runs. Pure.

Called by sweep.py and by `lengthwise demo`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lengthwise_lab.loadtest.arrivals import ArrivalKind, ArrivalProcess
from lengthwise_lab.loadtest.compare import PolicyRun
from lengthwise_lab.loadtest.measures import (
    Sample,
    Summary,
    bucket_edges,
    bucket_names,
    by_bucket,
    summarize,
    tau_b,
)
from lengthwise_lab.loadtest.oracle_model import oracle
from lengthwise_lab.loadtest.overhead import Overhead


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Completion times of the requests of one predicted length."""

    predicted_tokens: str
    completion: Summary | None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of one policy. Times are seconds."""

    requests: int
    failed: int
    errors: list[str]  #: The distinct messages of the failed requests.
    completion: Summary | None  #: None: no request succeeded.
    ttft: Summary | None
    duration_s: float
    output_tokens: int
    tokens_per_s: float
    fallbacks: int
    tau_b: float | None  #: Predicted against actual tokens; None: not defined.
    buckets: list[Bucket]


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """The completion times of an oracle, computed by `oracle_model.oracle`.

    If there is a run of the arm `oracle`, gain shares refer to that run and not to this model.
    """

    completion: Summary
    model_fcfs: Summary  #: The same model under FCFS, to compare with the measurement.
    slots: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole comparison."""

    model: str
    slots: int
    seed: int
    arrivals: str  #: An `arrivals.ArrivalKind`.
    rate_per_s: float | None
    offered_load: float | None  #: Arriving work over the capacity of the engine; None: a burst.
    overtake_factor: float
    policies: dict[str, Figures]
    oracle: Oracle | None
    ratios: dict[str, dict[str, float]]  #: policy -> figure -> ratio to fcfs.
    oracle_gain_share: dict[str, float]  #: policy -> share of the oracle's gain over fcfs, 1 = all.
    overhead: Overhead | None = None

    @property
    def failed(self) -> int:
        """The number of failed requests of all runs."""
        return sum(figures.failed for figures in self.policies.values())

    def as_json(self) -> dict[str, Any]:
        """Return one flat object. The figures of a policy are under its name."""
        rest = {
            key: value
            for key, value in asdict(self).items()
            if key not in ("policies", "oracle", "overhead")
        }
        out: dict[str, Any] = {name: _figures_json(f) for name, f in self.policies.items()}
        if self.oracle is not None:
            computed = {
                **asdict(self.oracle.completion),
                "slots": self.oracle.slots,
                "model_fcfs_mean_s": self.oracle.model_fcfs.mean_s,
            }
            out["oracle_model"] = computed
            out.setdefault("oracle", computed)
        if self.overhead is not None:
            added = {"added_p50_ms": self.overhead.added_p50_ms}
            out["ttft_overhead"] = {**asdict(self.overhead), **added}
        return {**rest, **out}


def build(
    runs: Sequence[PolicyRun],
    *,
    model: str,
    slots: int,
    seed: int,
    arrivals: ArrivalProcess,
    capacity_per_s: float | None = None,
    overhead: Overhead | None = None,
) -> Report:
    """Make the report of a comparison.

    The buckets are cut by predicted length. A request is in the same bucket in every run, also in a
    run without predictions. The oracle's service times come from the fcfs run (from the first run,
    if there is none), because our order does not influence them.

    Args:
        runs: At least one.
        model: The LLM.
        slots: Requests that the engine serves at once.
        seed: Seed of the workload.
        arrivals: Arrivals of the workload.
        capacity_per_s: Answers a second with all slots busy, if it was measured; None: the offered
            load is computed from service times.
        overhead: The measured overhead, if any.
    """
    predicted = _predictions(runs)
    edges = bucket_edges(list(predicted.values()))
    policies = {run.policy: _figures(run, predicted, edges) for run in runs}
    base = next((run for run in runs if run.policy == "fcfs"), runs[0])
    ideal = oracle(base.samples, slots=slots)
    oracle_figures = (
        None if ideal is None else Oracle(completion=ideal[0], model_fcfs=ideal[1], slots=slots)
    )
    ratios = _ratios(policies)
    rate_per_s = arrivals.rate_per_s
    if rate_per_s is None or arrivals.kind is ArrivalKind.BURST:
        load = None
    elif capacity_per_s is not None:
        load = rate_per_s / capacity_per_s
    else:
        load = _load(base.samples, rate_per_s, slots)
    return Report(
        model=model,
        slots=slots,
        seed=seed,
        arrivals=arrivals.kind,
        rate_per_s=rate_per_s,
        offered_load=load,
        overtake_factor=runs[0].overtake_factor,
        policies={str(name): figures for name, figures in policies.items()},
        oracle=oracle_figures,
        ratios=ratios,
        oracle_gain_share=_gain_share(ratios, oracle_figures),
        overhead=overhead,
    )


def _predictions(runs: Sequence[PolicyRun]) -> dict[int, float]:
    """Return index -> predicted tokens, from the first run that has it, sjf before the others."""
    found: dict[int, float] = {}
    for run in sorted(runs, key=lambda r: r.policy != "sjf"):
        for sample in run.samples:
            if sample.predicted_tokens is not None:
                found.setdefault(sample.index, sample.predicted_tokens)
    return found


def _figures(run: PolicyRun, predicted: dict[int, float], edges: Sequence[float]) -> Figures:
    good = [s for s in run.samples if s.ok]
    ttfts = [s.ttft_s for s in good if s.ttft_s is not None]
    both = [
        (s.predicted_tokens, float(s.output_tokens))
        for s in good
        if s.predicted_tokens is not None and s.output_tokens is not None
    ]
    tokens = sum(s.output_tokens or 0 for s in good)
    named = zip(bucket_names(edges), by_bucket(good, predicted.get, edges), strict=True)
    return Figures(
        requests=len(run.samples),
        failed=len(run.samples) - len(good),
        errors=sorted({s.error for s in run.samples if s.error is not None}),
        completion=summarize([s.completion_s or 0.0 for s in good]) if good else None,
        ttft=summarize(ttfts) if ttfts else None,
        duration_s=run.duration_s,
        output_tokens=tokens,
        tokens_per_s=tokens / run.duration_s if run.duration_s > 0 else 0.0,
        fallbacks=run.fallbacks,
        tau_b=tau_b([x for x, _ in both], [y for _, y in both]),
        buckets=[Bucket(predicted_tokens=name, completion=summary) for name, summary in named],
    )


def _load(samples: Sequence[Sample], rate_per_s: float, slots: int) -> float | None:
    """Compute arriving work over the capacity of the slots, from the measured service times."""
    served = [s.service_s for s in samples if s.service_s is not None]
    return rate_per_s * sum(served) / len(served) / slots if served else None


def _ratios(policies: dict[Any, Figures]) -> dict[str, dict[str, float]]:
    base = policies.get("fcfs")
    if base is None or base.completion is None:
        return {}
    out = {}
    for name, figures in policies.items():
        if name == "fcfs" or figures.completion is None:
            continue
        own, other = figures.completion, base.completion
        out[str(name)] = {
            "mean": own.mean_s / other.mean_s,
            "p50": own.p50_s / other.p50_s,
            "p90": own.p90_s / other.p90_s,
            "p99": own.p99_s / other.p99_s,
            "max": own.max_s / other.max_s,
        }
        if figures.ttft is not None and base.ttft is not None:
            out[str(name)]["ttft_mean"] = figures.ttft.mean_s / base.ttft.mean_s
    return out


def _gain_share(ratios: dict[str, dict[str, float]], ideal: Oracle | None) -> dict[str, float]:
    """Compute the share of the oracle's gain in the mean that each policy reaches.

    The oracle's gain is measured if it has a run. Otherwise it is the ratio of two modelled means,
    so that an offset of the model cancels out.
    """
    if "oracle" in ratios:
        gain = 1 - ratios["oracle"]["mean"]
    elif ideal is not None:
        gain = 1 - ideal.completion.mean_s / ideal.model_fcfs.mean_s
    else:
        return {}
    if gain <= 0:
        return {}
    return {name: (1 - ratio["mean"]) / gain for name, ratio in ratios.items() if name != "oracle"}


def _figures_json(figures: Figures) -> dict[str, Any]:
    """Return one policy's figures, with the points of its distributions on the top level."""
    out = {k: v for k, v in asdict(figures).items() if k not in ("completion", "ttft", "buckets")}
    for prefix, summary in (("", figures.completion), ("ttft_", figures.ttft)):
        for point in ("mean_s", "p50_s", "p90_s", "p99_s", "max_s"):
            out[prefix + point] = None if summary is None else getattr(summary, point)
    out["buckets"] = [
        {"predicted_tokens": b.predicted_tokens, **(asdict(b.completion) if b.completion else {})}
        for b in figures.buckets
    ]
    return out
