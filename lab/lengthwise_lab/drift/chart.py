"""Every stream as a row: what requests waited, and what the watch saw. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lengthwise_lab.drift.report import StreamReport
from lengthwise_lab.drift.run import Outcomes
from lengthwise_lab.drift.streams import StreamRequest

_COLORS = {"fcfs": "#8a8f98", "ours": "#1f6feb", "unwatched": "#d1495b"}
_LABELS = {
    "fcfs": "first come, first served",
    "ours": "Lengthwise",
    "unwatched": "short first, unwatched and uncalibrated",
}

#: Requests that one point of a curve is the mean of, as a share of all.
_SMOOTH = 25


def draw(
    reports: Sequence[StreamReport],
    requests: Sequence[Sequence[StreamRequest]],
    runs: Sequence[dict[str, Outcomes]],
    *,
    limit: float,
    path: Path,
) -> None:
    """Write a PNG.

    Args:
        reports: One of each stream.
        requests: Of each stream.
        runs: Of each stream, by way.
        limit: `min_rank_accuracy`.
        path: Of the PNG; its folder is there.
    """
    rows = len(reports)
    figure = Figure(figsize=(13, 2.9 * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    for row, (report, asked, run) in enumerate(zip(reports, requests, runs, strict=True)):
        _completions(axes[row][0], report, asked, run, legend=row == 0)
        _watch(axes[row][1], report, asked, run["ours"], limit, legend=row == 0)
    axes[rows - 1][0].set_xlabel("request, by arrival")
    axes[rows - 1][1].set_xlabel("requests answered")
    figure.suptitle(
        "A predictor that turns bad: shaded where the queue serves first come, first served",
        fontsize=13,
        fontweight="bold",
        x=0.01,
        ha="left",
    )
    figure.savefig(path, dpi=110)


def _completions(
    axes: Axes,
    report: StreamReport,
    requests: Sequence[StreamRequest],
    runs: dict[str, Outcomes],
    *,
    legend: bool,
) -> None:
    step = max(1, len(requests) // _SMOOTH)
    for way in ("unwatched", "fcfs", "ours"):
        done = runs[way].completion_s
        parts = [done[i : i + step] for i in range(0, len(done) - step + 1, step)]
        axes.plot(
            [i * step + step / 2 for i in range(len(parts))],
            [sum(part) / len(part) for part in parts],
            color=_COLORS[way],
            linewidth=2.2 if way == "ours" else 1.5,
            label=_LABELS[way],
        )
    _shade(axes, runs["ours"], report)
    axes.set_ylabel("mean completion, s")
    axes.set_ylim(0)
    axes.set_title(f"{report.stream}: {report.why}", loc="left", fontsize=10)
    if legend:
        axes.legend(loc="upper left", fontsize=8.5)


def _watch(
    axes: Axes,
    report: StreamReport,
    requests: Sequence[StreamRequest],
    ours: Outcomes,
    limit: float,
    *,
    legend: bool,
) -> None:
    for name, color, style in (
        ("rank_accuracy", "#1f6feb", "-"),
        ("coverage", "#2da44e", "-"),
        ("raw_coverage", "#2da44e", ":"),
    ):
        # None is a gap in the line.
        seen = [getattr(look, name) for look in ours.looks]
        values = [math.nan if value is None else value for value in seen]
        at = [look.answered for look in ours.looks]
        axes.plot(at, values, style, color=color, label=_WATCH[name])
    axes.axhline(limit, color="#d1495b", linewidth=1, linestyle="--", label="limit of the rank")
    _shade(axes, ours, report, by="answered")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(0, len(requests))
    if legend:
        axes.legend(loc="lower right", fontsize=8.5, ncols=2)


_WATCH = {
    "rank_accuracy": "rank accuracy, last 256",
    "coverage": "within p10 to p90, calibrated",
    "raw_coverage": "the same as predicted",
}


def _shade(axes: Axes, ours: Outcomes, report: StreamReport, *, by: str = "accepted") -> None:
    """Where `sjf` was suspended; and a line where a phase begins."""
    begun: int | None = None
    for look in ours.looks:
        at: int = getattr(look, by)
        if look.fallback and begun is None:
            begun = at
        if not look.fallback and begun is not None:
            axes.axvspan(begun, at, color="#f0c36d", alpha=0.35, linewidth=0)
            begun = None
    if begun is not None:
        axes.axvspan(begun, report.requests, color="#f0c36d", alpha=0.35, linewidth=0)
    for phase in report.phases[1:]:
        axes.axvline(phase.first, color="#444444", linewidth=1, linestyle=(0, (2, 2)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
