"""Draw the table as one picture. Called by `lengthwise lab table --png`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lengthwise_lab.reproductions.table.row import About

_INK = "#1f2328"
_COLORS = {"reproduced": "#8a8f98", "corrected": "#c9a227", "lengthwise": "#1f6feb"}
_FIGURES = {"mean": "o", "p99": "s", "max": "^"}

#: The baseline of each run: the first of these that served the same workload by the same rules.
_BASELINES = {
    "reproduced": ("baseline_reproduced", "baseline"),
    "corrected": ("baseline_whole", "baseline"),
    "lengthwise": ("baseline",),
}

#: Beyond these a point is drawn at the edge, as an arrow.
_MOST, _LEAST_RATIO, _MOST_RATIO = 2.5, 0.1, 10.0

#: Inches: the page; the left edge and the width of each panel; the height of a line of text.
_WIDTH, _TOP, _BETWEEN = 19.0, 1.2, 0.95
_LEFT, _RIGHT = (5.9, 4.0), (13.9, 4.8)
_LINE, _WORKLOAD = 0.17, 0.27
#: The letters that fit beside a panel.
_LEFT_LABEL, _RIGHT_LABEL = 105, 62

#: A workload, and its runs by name.
_Workload = tuple[str, Mapping[str, Any]]


def draw(table: Mapping[str, Any], path: Path) -> None:
    """Draw each system in two panels: its numbers over what it reports, and the requests behind.

    Left: every row with a published number; 1 is what they report. Right: for every workload the
    mean, p99 and maximum of the completion times over those without a schedule, by the same rules;
    less than 1 is better.

    Args:
        table: The result of `collect`.
        path: The PNG; its folder exists.
    """
    panels = []
    for system in dict.fromkeys(row["system"] for row in table["rows"]):
        rows = [row for row in table["rows"] if row["system"] == system]
        numbers = [row for row in rows if row["published"] and _has_point(row)]
        panels.append((system, numbers, _workloads(rows)))
    heights = [
        max(_LINE * len(numbers), _WORKLOAD * len(workloads), 0.6)
        for _, numbers, workloads in panels
    ]
    tall = _TOP + sum(heights) + _BETWEEN * len(panels)
    figure = Figure(figsize=(_WIDTH, tall))
    top = tall - _TOP
    for (system, numbers, workloads), height in zip(panels, heights, strict=True):
        if numbers:
            axes = _panel(figure, _LEFT, top, _LINE * len(numbers), tall)
            _numbers(axes, f"{system}: numbers over what they report", numbers)
        if workloads:
            axes = _panel(figure, _RIGHT, top, _WORKLOAD * len(workloads), tall)
            _requests(axes, f"{system}: completion times over no schedule", workloads)
        top -= height + _BETWEEN
    _legend(figure, tall)
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})


def _panel(
    figure: Figure, place: tuple[float, float], top: float, height: float, tall: float
) -> Axes:
    """Add axes of so many inches, whose upper edge is `top` inches above the page's lower edge."""
    begins, wide = place
    height = max(height, 0.6)
    return figure.add_axes((begins / _WIDTH, (top - height) / tall, wide / _WIDTH, height / tall))


def _has_point(row: Mapping[str, Any]) -> bool:
    return any(row[name] is not None for name in _COLORS)


def _workloads(rows: Sequence[Mapping[str, Any]]) -> list[_Workload]:
    """Return the runs of each workload, from all rows about it."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["details"].get("about") == About.REQUESTS and row["details"]["columns"]:
            runs = found.setdefault(row["details"]["workload"], {})
            # Rows differ in what they reproduce; the last one counts, the best of the classifiers.
            runs.update(row["details"]["columns"])
    return list(found.items())


def _numbers(axes: Axes, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    for name, color in _COLORS.items():
        points = [
            (row[name] / row["published"], at)
            for at, row in enumerate(rows)
            if row[name] is not None
        ]
        _points(axes, points, 0.0, _MOST, "o", color)
    labels = [f"{row['row']}  {row['name']}; {row['setting']}" for row in rows]
    _frame(axes, title, labels, _LEFT_LABEL)
    axes.set_xlim(-0.06, _MOST + 0.06)


def _requests(axes: Axes, title: str, workloads: Sequence[_Workload]) -> None:
    for (name, color), offset in zip(_COLORS.items(), (-0.25, 0.0, 0.25), strict=True):
        for figure, mark in _FIGURES.items():
            points = []
            for at, (_, runs) in enumerate(workloads):
                base = next((runs[one] for one in _BASELINES[name] if one in runs), None)
                if base is not None and name in runs:
                    took, over = (run["completion_s"][figure] for run in (runs[name], base))
                    points.append((took / over, at + offset))
            _points(axes, points, _LEAST_RATIO, _MOST_RATIO, mark, color)
    _frame(axes, title, [name for name, _ in workloads], _RIGHT_LABEL)
    axes.set_xscale("log")
    axes.set_xlim(_LEAST_RATIO * 0.93, _MOST_RATIO * 1.08)
    ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    least: float,
    most: float,
    mark: str,
    color: str,
) -> None:
    inside = [point for point in points if least <= point[0] <= most]
    _scatter(axes, inside, mark, color, 17)
    below = [(least, at) for value, at in points if value < least]
    above = [(most, at) for value, at in points if value > most]
    for beyond, arrow in ((below, "<"), (above, ">")):
        _scatter(axes, beyond, arrow, color, 36)


def _scatter(
    axes: Axes, points: Sequence[tuple[float, float]], mark: str, color: str, size: float
) -> None:
    x, y = zip(*points, strict=True) if points else ((), ())
    axes.scatter(x, y, marker=mark, color=color, s=size, zorder=3)


def _frame(axes: Axes, title: str, labels: Sequence[str], letters: int) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK)
    axes.axvline(1.0, color=_INK, linewidth=1)
    short = [textwrap.shorten(label, letters, placeholder=" ...") for label in labels]
    axes.set_yticks(range(len(labels)), short, fontsize=7.5)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", linewidth=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _legend(figure: Figure, tall: float) -> None:
    colors = [
        Line2D([], [], marker="o", linestyle="", color=color, label=name)
        for name, color in _COLORS.items()
    ]
    marks = [
        Line2D([], [], marker=mark, linestyle="", color=_INK, label=f"{name} (right)")
        for name, mark in _FIGURES.items()
    ]
    arrow = [Line2D([], [], marker=">", linestyle="", color=_INK, label="beyond the axis")]
    figure.legend(
        handles=[*colors, *marks, *arrow], loc="upper left", ncols=7, frameon=False, fontsize=11,
        bbox_to_anchor=(0.01, 1 - 0.45 / tall), borderaxespad=0,
    )  # fmt: skip
    figure.text(
        0.015, 1 - 0.25 / tall,
        "The four research systems: published, reproduced, corrected, lengthwise",
        fontsize=15, fontweight="bold", color=_INK, va="center",
    )  # fmt: skip
