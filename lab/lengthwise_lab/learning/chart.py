"""Draw tau-b over finished jobs: static, learned and served, one panel a stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lengthwise_lab.learning.report import StreamResult

_COLORS = {"static": "#8a8f98", "learned": "#d1495b", "served": "#1f6feb"}

#: Panels in a row, and most panels.
_COLUMNS, _MOST = 3, 12


def draw(results: Sequence[StreamResult], path: Path) -> None:
    """Write a PNG; its folder must exist. Beyond twelve streams the shortest are left out."""
    shown = results[:_MOST]
    rows = -(-len(shown) // _COLUMNS)
    figure = Figure(figsize=(13, 3.2 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for panel, result in zip(panels, shown, strict=False):
        after = result.as_json()["after"]
        for name, color in _COLORS.items():
            known = [(a["jobs"], a[f"tau_{name}"]) for a in after if f"tau_{name}" in a]
            jobs, tau = zip(*known, strict=True) if known else ((), ())
            style = "--" if name == "learned" else "-"
            panel.plot(jobs, tau, style, color=color, label=name, marker="o", markersize=3)
        panel.set_xscale("symlog", linthresh=50)
        panel.set_title(f"{result.llm}\n{result.source}", fontsize=9)
        panel.grid(alpha=0.25)
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("finished jobs", fontsize=9)
    figure.supylabel("tau-b of the next jobs", fontsize=9)
    figure.savefig(path, dpi=110)
