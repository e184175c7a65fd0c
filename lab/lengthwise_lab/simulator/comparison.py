"""Compare the policies of a question on the same requests. Called by `lengthwise lab run`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lengthwise_lab.simulator.policies import policy_named
from lengthwise_lab.simulator.question import Question
from lengthwise_lab.simulator.simulation import simulate
from lengthwise_lab.simulator.summary import summarize


def compare_policies(
    question: Question,
    data: Path | None,
    *,
    progress: Callable[[str, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Simulate every policy of a question.

    Args:
        question: The workload, the engine, the policies.
        data: The folder of recorded lengths and traces, for a question that names a file.
        progress: Called from time to time with the policy and its number of requests so far.

    Returns:
        `question` as it was read, and `policies`: for each its summary (`summarize`), the mean over
        the random seeds.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in question.policies}
    for seed in question.seeds:
        workload = question.workload(seed, data)
        predictor = workload.fitted_predictor()
        for name in question.policies:
            result = simulate(
                workload.pieces(predictor),
                question.engine,
                policy_named(name),
                spread=predictor.spread,
                weights=tuple(tenant.weight for tenant in question.tenants),
                limits=question.limits(),
                pair_accuracy=question.pair_accuracy,
                progress=partial(progress, name),
            )
            found[name].append(summarize(result))
    return {
        "question": question.model_dump(),
        "policies": {name: _mean(values) for name, values in found.items()},
    }


def _mean(values: list[Any]) -> Any:
    """Return the mean of several runs, number by number."""
    first = values[0]
    if len(values) == 1 or isinstance(first, str):
        return first
    if isinstance(first, dict):
        return {key: _mean([v.get(key, 0.0) for v in values]) for key in first}
    if isinstance(first, list):
        return [_mean(list(entries)) for entries in zip(*values, strict=True)]
    return float(f"{np.mean(values):.6g}")


def as_markdown(result: dict[str, Any]) -> str:
    """Return the comparison as Markdown tables."""
    policies = result["policies"]
    fcfs = policies.get("fcfs")
    lines = [f"# {result['question']['title']}", "", "Completion time, s", ""]
    lines += _head("policy", "mean", "p50", "p99", "max", "mean to fcfs", "p99 to fcfs", "tau-b")
    for name, found in policies.items():
        times = found["completion_s"]
        ratios = [_ratio(times, fcfs, point) for point in ("mean", "p99")]
        points = [f"{times.get(point, 0):.4g}" for point in ("mean", "p50", "p99", "max")]
        lines.append(_row(name, *points, *ratios, f"{found['tau_b']:.2f}"))
    buckets = list(next(iter(policies.values()))["buckets"])
    lines += ["", "Completion time by output tokens, s: mean / p99", "", *_head("policy", *buckets)]
    for name, found in policies.items():
        cells = [
            f"{found['buckets'][b]['mean']:.4g} / {found['buckets'][b]['p99']:.4g}"
            if found["buckets"][b]["count"]
            else "-"
            for b in buckets
        ]
        lines.append(_row(name, *cells))
    lines += ["", "Fairness between requests, by completion time over what each takes alone", ""]
    lines += _head("policy", "Jain", "slowdown p50", "p99", "max", "worst / best tenant")
    for name, found in policies.items():
        fair = found["fairness"]
        slow = [fair["slowdown"].get(point, 0.0) for point in ("p50", "p99", "max")]
        numbers = (fair["jain_of_slowdowns"], *slow, fair.get("max_over_min", 1.0))
        lines.append(_row(name, *(f"{number:.4g}" for number in numbers)))
    lines += ["", "Starvation, and the engine", ""]
    lines += _head(
        "policy", "longest wait, s", "waited over 10 x its length, %", "over 100 s, %",
        "overtaken by up to, s", "beyond its slack, s", "preemptions", "tokens/s",
    )  # fmt: skip
    for name, found in policies.items():
        starved, engine = found["starvation"], found["engine"]
        numbers = (
            starved["max_wait_s"], 100 * starved["share_waiting_over_10_times_its_length"],
            100 * starved["share_waiting_over_100_s"], starved["max_lag_s"],
            starved["max_excess_s"], engine["preemptions"], engine["tokens_per_s"],
        )  # fmt: skip
        lines.append(_row(name, *(f"{number:.4g}" for number in numbers)))
    return "\n".join(lines) + "\n"


def _head(*names: str) -> list[str]:
    return [_row(*names), "| --- |" + " ---: |" * (len(names) - 1)]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _ratio(times: dict[str, float], fcfs: dict[str, Any] | None, point: str) -> str:
    if fcfs is None or not fcfs["completion_s"].get(point):
        return "-"
    return f"{times[point] / fcfs['completion_s'][point]:.3f}"


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw mean and p99 of every policy, and its mean by output tokens, as a PNG."""
    from matplotlib.figure import Figure

    policies = result["policies"]
    names = list(policies)
    figure = Figure(figsize=(12, 1.2 + 0.42 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2)
    at = np.arange(len(names))
    for offset, point, color in ((-0.2, "mean", "#1f6feb"), (0.2, "p99", "#8a8f98")):
        values = [policies[name]["completion_s"].get(point, 0.0) for name in names]
        left.barh(at + offset, values, 0.4, label=point, color=color)
    buckets = list(policies[names[0]]["buckets"])
    for n, bucket in enumerate(buckets):
        values = [policies[name]["buckets"][bucket].get("mean", 0.0) for name in names]
        right.barh(at + (n - (len(buckets) - 1) / 2) * 0.8 / len(buckets), values,
                   0.8 / len(buckets), label=f"{bucket} tokens")  # fmt: skip
    for axes, title in ((left, "Completion time, s"), (right, "Mean by output tokens, s")):
        axes.set_yticks(at, names)
        axes.invert_yaxis()
        axes.set_title(title, loc="left", fontsize=11)
        axes.legend(fontsize=9)
    figure.suptitle(result["question"]["title"], fontsize=13, fontweight="bold", x=0.01, ha="left")
    figure.savefig(path, dpi=120)
