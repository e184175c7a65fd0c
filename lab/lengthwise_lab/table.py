"""The table of the seeds' headline numbers: theirs, reproduced, corrected, and ours.

A seed is one of the four research systems that this product grew out of. Each program that
reproduces some of their numbers is a source of rows; `SOURCES` lists them all. Called by
`lengthwise lab table`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from lengthwise_lab.errors import BadChoice

Seed = Literal["SSJF", "SeqSch", "LTR", "ProbLen"]

#: How far a number can be trusted: what they print, what running their code gave, or (for checks
#: of ours) what another simulator gave for the same setting.
Kind = Literal[
    "paper", "readme", "blog", "their code, run", "code comment", "third party", "other simulator"
]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One headline number of a seed, and what became of it here.

    Attributes:
        seed: Whose number it is.
        name: What is measured, such as "mean completion time, cut against FCFS".
        setting: On which workload and engine, so that a reader could repeat it.
        unit: Of the four numbers, such as "%", "x", "s/token".
        theirs: What they report; None: nothing that could be checked.
        kind: Where `theirs` comes from.
        reproduced: The same number by their own rules, defects included; None: out of reach here.
        corrected: The same number with their defects mended, or measured fairly; None: no defect
            that matters to it, or out of reach.
        ours: Our policy on the same workload, measured as `corrected` is; None: does not apply.
        tolerance: How far `reproduced` may be from `theirs`, in `unit`; None: no claim is made.
        note: What a reader must know to take the numbers right: substitutes, artefacts.
        details: More of the same run by column ("corrected", "ours", ...): mean, p50, p99, max,
            per length bucket, fairness, starvation.
    """

    seed: Seed
    name: str
    setting: str
    unit: str
    theirs: float | None
    kind: Kind
    reproduced: float | None = None
    corrected: float | None = None
    ours: float | None = None
    tolerance: float | None = None
    note: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def agrees(self) -> bool | None:
        """Whether the reproduction is within its tolerance; None: no claim is made."""
        if self.theirs is None or self.reproduced is None or self.tolerance is None:
            return None
        return abs(self.reproduced - self.theirs) <= self.tolerance


#: Gives its rows; the argument is a folder of recorded data, None: synthetic workloads only.
Rows = Callable[[Path | None], Sequence[Row]]

#: Every source: its name for `--only`, and where its function is, imported only when it is asked
#: for, because most need the extra `lab`.
SOURCES: dict[str, str] = {
    "ssjf": "lengthwise_lab.seeds.ssjf_rows:rows",
    "seqsch": "lengthwise_lab.seeds.seqsch_rows:rows",
    "problen": "lengthwise_lab.seeds.problen_rows:rows",
    "ssjf-check": "lengthwise_lab.simulator.clean_check:rows",
    "ltr": "lengthwise_lab.simulator.ltr_rows:rows",
}


def collect(
    data: Path | None,
    only: Sequence[str] = (),
    *,
    started: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run the sources and put their rows into one object that JSON can hold.

    Args:
        data: A folder of recorded lengths, traces and predictions; None: synthetic workloads.
        only: Names out of `SOURCES`; empty: all.
        started: Called with the name of each source as it begins.

    Returns:
        `{"rows": [...], "seconds": {source: s}, "data": ...}`.

    Raises:
        BadChoice: A name is not a source, or the folder is not there.
    """
    unknown = sorted(set(only) - set(SOURCES))
    if unknown:
        raise BadChoice(f"no such part of the table: {', '.join(unknown)}; there are {_names()}")
    if data is not None and not data.is_dir():
        raise BadChoice(f"{data} is not a folder; --data wants the folder of recorded data")
    rows: list[dict[str, Any]] = []
    seconds = {}
    for name in only or SOURCES:
        started(name)
        begun = time.perf_counter()
        module, function = SOURCES[name].split(":")
        source: Rows = getattr(import_module(module), function)
        rows += [as_dict(row) | {"source": name} for row in source(data)]
        seconds[name] = round(time.perf_counter() - begun, 1)
    return {"rows": rows, "seconds": seconds, "data": data is not None}


def as_dict(row: Row) -> dict[str, Any]:
    """A row as JSON holds it."""
    return asdict(row) | {"agrees": row.agrees}


def as_markdown(table: Mapping[str, Any]) -> str:
    """The rows of `collect` as a Markdown table, without their details."""
    lines = [
        "| seed | what | setting | theirs | reproduced | corrected | ours | unit | note |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for row in table["rows"]:
        numbers = [_number(row[key]) for key in ("theirs", "reproduced", "corrected", "ours")]
        if row["agrees"] is False:
            numbers[1] += " (!)"
        cells = [row["seed"], row["name"], row["setting"], *numbers, row["unit"], row["note"]]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _names() -> str:
    return ", ".join(SOURCES) or "none"
