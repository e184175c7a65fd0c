"""The sources of the table's rows, and the run that collects them.

Each program that reproduces some of the numbers is a source; `SOURCES` lists them all. Called by
`lengthwise lab table`; markdown.py and chart.py show the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lengthwise_lab.errors import BadChoice
from lengthwise_lab.reproductions.table.row import TableRow, as_dict

#: Returns the rows of a source; the argument is the folder of recorded data, None: synthetic
#: workloads only.
RowSource = Callable[[Path | None], Sequence[TableRow]]

#: Every source: its name for `--only`, and its function, which is imported only when it runs,
#: because most need the extra `lab`.
SOURCES: dict[str, str] = {
    "ssjf": "lengthwise_lab.reproductions.ssjf.rows:rows",
    "seqsch": "lengthwise_lab.reproductions.seqsch.rows:rows",
    "problen": "lengthwise_lab.reproductions.problen.rows:rows",
    "ssjf-check": "lengthwise_lab.reproductions.ssjf.cross_check:rows",
    "ltr": "lengthwise_lab.reproductions.ltr.rows:rows",
    "predictors": "lengthwise_lab.reproductions.predictor_rows:rows",
}


def collect(
    data: Path | None,
    only: Sequence[str] = (),
    *,
    started: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run the sources and return their rows as values that JSON can hold.

    Args:
        data: The folder of recorded lengths, traces and predictions; None: synthetic workloads.
        only: Names out of `SOURCES`; empty: all.
        started: Called with the name of each source before it runs.

    Returns:
        `{"rows": [...], "seconds": {source: s}, "data": ...}`; a row's `row` is its number.

    Raises:
        BadChoice: A name is not a source, or the folder does not exist.
    """
    unknown = sorted(set(only) - set(SOURCES))
    if unknown:
        raise BadChoice(
            f"no such part of the table: {', '.join(unknown)}; it must be one of {_names()}"
        )
    if data is not None and not data.is_dir():
        raise BadChoice(f"{data} is not a folder; --data needs the folder of recorded data")
    rows: list[dict[str, Any]] = []
    seconds = {}
    for name in only or SOURCES:
        started(name)
        began = time.perf_counter()
        module, function = SOURCES[name].split(":")
        source: RowSource = getattr(import_module(module), function)
        for row in source(data):
            rows.append({"row": len(rows) + 1, "source": name, **as_dict(row)})
        seconds[name] = round(time.perf_counter() - began, 1)
    return {"rows": rows, "seconds": seconds, "data": data is not None}


def _names() -> str:
    return ", ".join(SOURCES) or "none"
