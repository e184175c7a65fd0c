"""The table of the seeds' numbers as one picture. Called by `lengthwise lab table --png`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_MARKS = (
    ("reproduced", "o", "#8a8f98"),
    ("corrected", "s", "#c9a227"),
    ("ours", "D", "#1f6feb"),
)


def draw(table: Mapping[str, Any], path: Path) -> None:
    """Every row that has a number of theirs, each column over it: 1 is what they report.

    Args:
        table: What `collect` gave.
        path: Of the PNG; its folder is there.
    """
    rows = [row for row in table["rows"] if row["theirs"]]
    figure = Figure(figsize=(15, 1.5 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for name, mark, color in _MARKS:
        points = [
            (row[name] / row["theirs"], at) for at, row in enumerate(rows) if row[name] is not None
        ]
        x, y = zip(*points, strict=True) if points else ((), ())
        axes.scatter(x, y, marker=mark, color=color, label=name, s=26)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(
        range(len(rows)),
        [f"{row['seed']}: {row['name']}; {row['setting']}" for row in rows],
        fontsize=7,
    )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 2.5)
    axes.grid(axis="y", linewidth=0.3)
    axes.set_xlabel("over what they report (beyond 2.5: not shown)")
    axes.legend(loc="upper right")
    figure.savefig(path, dpi=110)
