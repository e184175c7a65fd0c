"""Draw a comparison or a sweep. Called by `lengthwise demo` and `lengthwise bench serve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lengthwise_lab.loadtest.compare import PolicyRun
from lengthwise_lab.loadtest.report import Figures, Report
from lengthwise_lab.loadtest.sweep import Sweep

#: Grey for the baseline, blue for Lengthwise. They differ in print and for colour-blind readers.
COLORS = {
    "fcfs": "#8a8f98",
    "sjf": "#1f6feb",
    "sjf-k": "#8250df",
    "shadow": "#c9a227",
    "oracle": "#2da44e",
}
_ORACLE = COLORS["oracle"]
_LABELS = {
    "fcfs": "first come, first served",
    "sjf": "short first (Lengthwise)",
    "sjf-k": "short first, k alone",
    "shadow": "shadow",
    "oracle": "oracle (knows every length)",
}


def draw(report: Report, runs: Sequence[PolicyRun], path: Path) -> None:
    """Write a PNG: the distribution of completion times, and their means by predicted length.

    Args:
        report: The figures.
        runs: The runs of the report.
        path: The PNG. Its folder must exist.
    """
    figure = Figure(figsize=(12.4, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _distribution(left, report, runs)
    _bars(right, report)
    first = runs[0]
    figure.suptitle(
        f"{len(first.samples)} requests to {report.model}, {report.slots} at a time"
        f" ({'all at once' if report.rate_per_s is None else f'{report.rate_per_s:.2g} a second'})",
        fontsize=14,
        fontweight="bold",
        x=0.01,
        ha="left",
    )
    figure.savefig(path, dpi=130)


def _distribution(axes: Axes, report: Report, runs: Sequence[PolicyRun]) -> None:
    """Plot the share of requests that are complete, by seconds after sending."""
    longest = 0.0
    for run in runs:
        done = sorted(s.completion_s for s in run.samples if s.completion_s is not None and s.ok)
        if not done:
            continue
        longest = max(longest, done[-1])
        color = COLORS[run.policy]
        shares = [i / len(done) for i in range(len(done) + 1)]
        mean_s = sum(done) / len(done)
        label = f"{_LABELS[run.policy]}: mean {mean_s:.1f} s"
        axes.step([0.0, *done], shares, where="post", color=color, linewidth=2.4, label=label)
        axes.axvline(mean_s, color=color, linewidth=1.2, linestyle=(0, (4, 3)))
    if report.oracle is not None and "oracle" not in report.policies:
        mean_s = report.oracle.completion.mean_s
        label = f"oracle (knows every length): mean {mean_s:.1f} s"
        axes.axvline(mean_s, color=_ORACLE, linewidth=1.6, linestyle=":", label=label)
    axes.set_xlim(0, longest * 1.02 or 1)
    axes.set_ylim(0, 1.01)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("seconds after sending")
    axes.set_title("Requests answered completely (dashed: means)", loc="left", fontsize=11)
    axes.legend(loc="lower right", frameon=True, framealpha=0.95, fontsize=9.5)
    plain_axes(axes)


def _bars(axes: Axes, report: Report) -> None:
    """Plot mean completion times by predicted length."""
    names = list(report.policies)
    width = 0.8 / len(names)
    buckets = [b.predicted_tokens for b in report.policies[names[0]].buckets]
    for n, name in enumerate(names):
        means = [
            b.completion.mean_s if b.completion is not None else 0.0
            for b in report.policies[name].buckets
        ]
        at = [i + (n - (len(names) - 1) / 2) * width for i in range(len(buckets))]
        bars = axes.bar(at, means, width * 0.94, color=COLORS[name], label=_LABELS[name])
        axes.bar_label(bars, fmt="%.1f", fontsize=9, padding=2)
    axes.set_xticks(range(len(buckets)), [f"{b} tokens" for b in buckets])
    axes.set_xlabel("predicted length of the answer")
    axes.set_ylabel("mean seconds to the whole answer")
    axes.set_title("Mean by predicted length", loc="left", fontsize=11)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.margins(y=0.12)
    plain_axes(axes)


def draw_sweep(sweep: Sweep, path: Path) -> None:
    """Write a PNG: mean and p99 of each policy by offered load, all seeds together.

    Args:
        sweep: Two steps or more, each with a load.
        path: The PNG. Its folder must exist.
    """
    figure = Figure(figsize=(12.4, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    reports = [step.pooled for step in sweep.steps if step.pooled is not None]
    for axes, point, title in ((left, "mean_s", "Mean"), (right, "p99_s", "p99")):
        for name in reports[0].policies:
            at = [(r.offered_load, r.policies[name]) for r in reports]
            known = [(x, _point(f, point)) for x, f in at if x is not None and f.completion]
            color = COLORS[name]
            axes.plot(*zip(*known, strict=True), "o-", color=color, label=_LABELS[name])
        axes.set_ylim(0)
        axes.set_xlabel("offered load (1 = capacity of the engine)")
        axes.set_ylabel("seconds to the whole answer")
        axes.set_title(title, loc="left", fontsize=11)
        axes.legend(loc="upper left", frameon=True)
        plain_axes(axes)
    requests = sum(f.requests for r in reports for f in r.policies.values())
    figure.suptitle(
        f"{sweep.model}, {sweep.slots} at a time, {requests} requests in all",
        fontsize=14,
        fontweight="bold",
        x=0.01,
        ha="left",
    )
    figure.savefig(path, dpi=130)


def _point(figures: Figures, point: str) -> float:
    return float(getattr(figures.completion, point))


def plain_axes(axes: Axes) -> None:
    """Remove the frame's top and right, and draw light horizontal lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
