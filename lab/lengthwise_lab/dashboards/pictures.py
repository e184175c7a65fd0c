"""Draw the Grafana dashboards of the chart without Grafana.

`python -m lengthwise_lab.dashboards.pictures --prometheus URL --dashboard FILE --out PNG` makes the
pictures of docs/guides/monitoring.md. The queries, units and legends come from the dashboard, so a
picture shows the data that Grafana would plot; it does not look like Grafana.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lengthwise_lab.dashboards.queries import RATE_INTERVAL, Panel, Prometheus, Series, expand, read

_PALETTE = ("#1f6feb", "#d1242f", "#2da44e", "#c9a227", "#8250df", "#bf3989", "#1b7c83", "#8a8f98")


#: The names of colours that the dashboards use.
_NAMED = {
    "green": "#2da44e",
    "yellow": "#c9a227",
    "orange": "#e36209",
    "red": "#d1242f",
    "dark-red": "#82071e",
}


def _amount(value: float, unit: str) -> str:
    """Format a number with its unit, as short as Grafana does."""
    if unit == "percentunit":
        return f"{100 * value:.0f} %"
    if unit == "s":
        if value and abs(value) < 1:
            return f"{1000 * value:.3g} ms"
        return f"{value:.3g} s" if abs(value) < 120 else f"{value / 60:.3g} min"
    return f"{value:.3g}" + ("/s" if unit == "reqps" else "")


def _axis(axes: Axes, unit: str, top: float | None) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _amount(value, unit)))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylim(0, top * 1.02 if top else max(axes.get_ylim()[1], 1e-9))


def _lines(axes: Axes, panel: Panel, results: list[list[Series]], start_s: float) -> None:
    named = [
        (series.name(target.legend) or target.expr[:30], series)
        for target, found in zip(panel.targets, results, strict=True)
        for series in found
    ]
    other: Axes | None = None
    other_unit = panel.unit
    below: dict[float, float] = {}
    for number, (name, series) in enumerate(named):
        unit = next((u for pattern, u in panel.right if re.fullmatch(pattern, name)), None)
        on = axes
        if unit is not None:
            other = other or axes.twinx()
            on, other_unit = other, unit
        color = _NAMED.get(panel.colors.get(name, ""), _PALETTE[number % len(_PALETTE)])
        dashed = unit is not None or any(re.fullmatch(pattern, name) for pattern in panel.dashed)
        minutes = [(t - start_s) / 60 for t in series.times]
        if panel.stacked:
            floor = [below.get(t, 0.0) for t in series.times]
            tops = [
                f + (0 if math.isnan(v) else v) for f, v in zip(floor, series.values, strict=True)
            ]
            below.update(zip(series.times, tops, strict=True))
            on.fill_between(minutes, floor, tops, color=color, alpha=0.55, lw=0.5, label=name)
        else:
            on.plot(
                minutes, series.values, "--" if dashed else "-", color=color, lw=1.4, label=name
            )
    _axis(axes, panel.unit, panel.top)
    handles, labels = axes.get_legend_handles_labels()
    if other is not None:
        _axis(other, other_unit, None)
        more = other.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
        other.spines[["top", "left"]].set_visible(False)
        other.tick_params(labelsize=7)
    if handles:
        axes.legend(
            handles,
            labels,
            fontsize=6,
            ncols=2,
            frameon=False,
            loc="upper left",
            bbox_to_anchor=(0, -0.1),
        )
    else:
        axes.text(0.5, 0.5, "no data", ha="center", color="#8a8f98", transform=axes.transAxes)


def _stat(axes: Axes, panel: Panel, results: list[list[Series]]) -> None:
    series = results[0][0] if results[0] else None
    text = "no data" if series is None else _amount(series.values[-1], panel.unit)
    axes.axis("off")
    axes.text(0.5, 0.42, text, ha="center", va="center", fontsize=20, color="#1f6feb")
    if series is not None:
        spark = axes.inset_axes((0.05, 0.0, 0.9, 0.2))
        spark.plot(series.values, color="#1f6feb", lw=0.8)
        spark.axis("off")


def draw(
    title: str,
    panels: Sequence[Panel],
    prometheus: Prometheus,
    *,
    start_s: float,
    end_s: float,
    step_s: float,
    rate_interval: str,
    path: Path,
) -> None:
    """Write a PNG of all panels for a time range, seconds since the epoch."""
    rows: list[list[Panel]] = []
    for panel in panels:
        width = 5 if panel.kind == "stat" else 4 if panel.row.startswith("Engines") else 3
        if panel.row in ("Answers", "Is it worth using?", "Is it there, and fast?"):
            width = 2
        if not rows or rows[-1][0].row != panel.row or len(rows[-1]) == width:
            rows.append([])
        rows[-1].append(panel)
    heights = [1.1 if row[0].kind == "stat" else 2.9 for row in rows]
    figure = Figure(figsize=(14, sum(heights) + 0.6), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)
    for part, row in zip(parts[:, 0], rows, strict=True):
        for axes, panel in zip(part.subplots(1, len(row), squeeze=False)[0], row, strict=True):
            results = [
                prometheus.over(
                    expand(t.expr, span_s=end_s - start_s, rate_interval=rate_interval),
                    start_s=start_s,
                    end_s=end_s,
                    step_s=step_s,
                )
                for t in panel.targets
            ]
            axes.set_title(panel.title, fontsize=9, loc="left", fontweight="bold")
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", alpha=0.25)
            if panel.kind == "stat":
                _stat(axes, panel, results)
            else:
                _lines(axes, panel, results, start_s)
            if panel.kind != "stat":
                axes.set_xlim(0, (end_s - start_s) / 60)
                axes.set_xlabel("minutes", fontsize=7, loc="right", labelpad=-2)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parse the command line, and write the picture of one dashboard."""
    parser = argparse.ArgumentParser(prog="python -m lengthwise_lab.dashboards.pictures")
    parser.add_argument("--prometheus", required=True, help="its root URL")
    parser.add_argument("--dashboard", required=True, type=Path, help="Grafana's JSON")
    parser.add_argument("--out", required=True, type=Path, help="PNG to write")
    parser.add_argument("--minutes", type=float, default=15, help="how far back")
    parser.add_argument("--rate-interval", default=RATE_INTERVAL, help="for $__rate_interval")
    args = parser.parse_args()
    title, panels = read(args.dashboard)
    end_s = time.time()
    span_s = 60 * args.minutes
    prometheus = Prometheus(args.prometheus)
    try:
        draw(
            title,
            panels,
            prometheus,
            start_s=end_s - span_s,
            end_s=end_s,
            step_s=span_s / 300,
            rate_interval=args.rate_interval,
            path=args.out,
        )
    finally:
        prometheus.close()


if __name__ == "__main__":
    main()
