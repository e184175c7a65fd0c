"""Draw each stream: completion times, and the measured quality of the predictor.

Needs matplotlib. Called by `lengthwise bench drift`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lengthwise_lab.drift.report import StreamReport
from lengthwise_lab.drift.run import Outcomes
from lengthwise_lab.drift.streams import StreamRequest

_COLORS = {"fcfs": "#8a8f98", "lengthwise": "#1f6feb", "plain_sjf": "#d1495b"}
_LABELS = {
    "fcfs": "first come, first served",
    "lengthwise": "Lengthwise",
    "plain_sjf": "short first, without fallback and calibration",
}

#: Number of points of a curve; each is the mean of as many requests.
_POINTS = 25


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
        reports: The report of each stream.
        requests: The requests of each stream.
        runs: The outcomes of each stream, by variant.
        limit: `min_rank_accuracy`.
        path: The PNG. Its folder must exist.
    """
    rows = len(reports)
    figure = Figure(figsize=(13, 2.9 * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    for row, (report, stream_requests, run) in enumerate(zip(reports, requests, runs, strict=True)):
        _completions(axes[row][0], report, stream_requests, run, legend=row == 0)
        _quality(axes[row][1], report, stream_requests, run["lengthwise"], limit, legend=row == 0)
    axes[rows - 1][0].set_xlabel("request, by arrival")
    axes[rows - 1][1].set_xlabel("requests answered")
    figure.suptitle(
        "A predictor that becomes bad: shaded while the queue serves first come, first served",
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
    step = max(1, len(requests) // _POINTS)
    for variant in ("plain_sjf", "fcfs", "lengthwise"):
        done = runs[variant].completion_s
        parts = [done[i : i + step] for i in range(0, len(done) - step + 1, step)]
        axes.plot(
            [i * step + step / 2 for i in range(len(parts))],
            [sum(part) / len(part) for part in parts],
            color=_COLORS[variant],
            linewidth=2.2 if variant == "lengthwise" else 1.5,
            label=_LABELS[variant],
        )
    _shade(axes, runs["lengthwise"], report)
    axes.set_ylabel("mean completion, s")
    axes.set_ylim(0)
    axes.set_title(f"{report.stream}: {report.why}", loc="left", fontsize=10)
    if legend:
        axes.legend(loc="upper left", fontsize=8.5)


def _quality(
    axes: Axes,
    report: StreamReport,
    requests: Sequence[StreamRequest],
    lengthwise: Outcomes,
    limit: float,
    *,
    legend: bool,
) -> None:
    for name, color, style in (
        ("rank_accuracy", "#1f6feb", "-"),
        ("coverage", "#2da44e", "-"),
        ("raw_coverage", "#2da44e", ":"),
    ):
        # None is a gap in the curve.
        seen = [getattr(observation, name) for observation in lengthwise.observations]
        values = [math.nan if value is None else value for value in seen]
        at = [observation.answered for observation in lengthwise.observations]
        axes.plot(at, values, style, color=color, label=_QUALITY_LABELS[name])
    axes.axhline(
        limit, color="#d1495b", linewidth=1, linestyle="--", label="limit of the rank accuracy"
    )
    _shade(axes, lengthwise, report, by="answered")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(0, len(requests))
    if legend:
        axes.legend(loc="lower right", fontsize=8.5, ncols=2)


_QUALITY_LABELS = {
    "rank_accuracy": "rank accuracy, last 256",
    "coverage": "within p10 to p90, calibrated",
    "raw_coverage": "the same, uncalibrated",
}


def _shade(axes: Axes, lengthwise: Outcomes, report: StreamReport, *, by: str = "accepted") -> None:
    """Shade the time of the fallback, and draw a line where a phase begins."""
    start: int | None = None
    for observation in lengthwise.observations:
        at: int = getattr(observation, by)
        if observation.fallback and start is None:
            start = at
        if not observation.fallback and start is not None:
            axes.axvspan(start, at, color="#f0c36d", alpha=0.35, linewidth=0)
            start = None
    if start is not None:
        axes.axvspan(start, report.requests, color="#f0c36d", alpha=0.35, linewidth=0)
    for phase in report.phases[1:]:
        axes.axvline(phase.first, color="#444444", linewidth=1, linestyle=(0, (2, 2)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
