"""Draw a race for a reader who has not seen it. Called by `lengthwise demo`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lengthwise_lab.loadtest.applications import ApplicationTimes
from lengthwise_lab.loadtest.chart import COLORS, plain_axes
from lengthwise_lab.loadtest.compare import PolicyRun
from lengthwise_lab.loadtest.report import Report

_NAMES = {"fcfs": "first come, first served", "sjf": "short answers first (Lengthwise)"}


def draw_race(
    report: Report,
    runs: Sequence[PolicyRun],
    applications: Sequence[ApplicationTimes],
    path: Path,
) -> None:
    """Write a PNG: how many requests are answered over time, and the means of each application.

    Args:
        report: The figures, with `fcfs` and `sjf`.
        runs: Both runs.
        applications: From `times_by_application`.
        path: The PNG. Its folder must exist.
    """
    figure = Figure(figsize=(12.4, 5.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for run in runs:
        _answered(left, run)
    _applications(right, applications)
    count = len(runs[0].samples)
    figure.suptitle(
        f"{_headline(report, count)}\n",
        fontsize=14,
        fontweight="bold",
        x=0.01,
        ha="left",
    )
    figure.text(
        0.01,
        0.925,
        f"One small LLM, {report.slots} answers at a time. All requests arrive at second 0; both "
        "orders ran at the same time on the same machine.",
        fontsize=10.5,
        color="#57606a",
    )
    figure.savefig(path, dpi=130)


def _headline(report: Report, count: int) -> str:
    means = [report.policies[name].completion for name in ("fcfs", "sjf")]
    if means[0] is None or means[1] is None:
        return f"The same {count} requests in two orders"
    return (
        f"The same {count} requests in two orders: an answer takes {means[1].mean_s:.0f} s on "
        f"average instead of {means[0].mean_s:.0f} s"
    )


def _answered(axes: Axes, run: PolicyRun) -> None:
    """Plot the number of answered requests over time, with the mean."""
    done = sorted(s.completion_s for s in run.samples if s.completion_s is not None and s.ok)
    if not done:
        return
    color, count = COLORS[run.policy], len(run.samples)
    mean_s = sum(done) / len(done)
    label = f"{_NAMES[run.policy]}: {mean_s:.1f} s on average"
    axes.step([0.0, *done], range(len(done) + 1), where="post", color=color, lw=2.6, label=label)
    axes.axvline(mean_s, color=color, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_xlim(0, max(done[-1] * 1.02, axes.get_xlim()[1] if axes.lines[2:] else 0))
    axes.set_ylim(0, count * 1.02)
    axes.set_xlabel("seconds since the requests arrived")
    axes.set_title("Requests answered so far (dashed: the average time)", loc="left", fontsize=11)
    axes.legend(loc="lower right", frameon=True, framealpha=0.95, fontsize=10)
    plain_axes(axes)


def _applications(axes: Axes, applications: Sequence[ApplicationTimes]) -> None:
    """Plot the mean time of each application under both policies, shortest answers on top."""
    height = 0.38
    for row, times in enumerate(applications):
        for at, policy in ((row - height / 2, "fcfs"), (row + height / 2, "sjf")):
            bar = axes.barh(at, times.mean_s[policy], height * 0.94, color=COLORS[policy])
            axes.bar_label(bar, fmt="%.1f s", fontsize=10, padding=3)
    names = [
        f"{a.requests} times {a.name}\n(about {a.median_tokens:.0f} tokens)" for a in applications
    ]
    axes.set_yticks(range(len(applications)), names)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel("average seconds until the answer is complete")
    axes.set_title("By what was asked", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
