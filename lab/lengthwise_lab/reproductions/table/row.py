"""The table of the seeds' headline numbers: theirs, reproduced, corrected, and ours.

A seed is one of the four research systems that this product grew out of. Each program that
reproduces some of their numbers is a source of rows; `SOURCES` lists them all. Nothing in a row is
left out in silence: a column without a number has its reason, and so has a row without requests.
Called by `lengthwise lab table`; table_markdown.py and table_chart.py show it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from lengthwise_lab.errors import BadChoice
from lengthwise_lab.reproductions.table.details import BUCKETS, KEYS

Seed = Literal["SSJF", "SeqSch", "LTR", "ProbLen"]

#: How far a number can be trusted: what they print, what running their code gave, or (for checks
#: of ours) what another simulator gave for the same setting.
Kind = Literal[
    "paper", "readme", "blog", "their code, run", "code comment", "third party", "other simulator"
]

#: The columns of a row, in their order.
COLUMNS = ("theirs", "reproduced", "corrected", "ours")


class Absent(StrEnum):
    """Why a column of a row has no number. There is no other reason."""

    NOT_PUBLISHED = "they publish no such number"
    INPUTS = "what it was measured on is not published: weights, predictions or texts"
    MODEL = "needs a trained model, its texts or its GPU, which the lab does not carry"
    HARDWARE = "a time on their hardware, of a program that does not run here"
    NO_DEFECT = "no defect of theirs touches it: reproduced is it"
    NO_ORDER = "no request is served, so there is nothing that a policy could order"


class About(StrEnum):
    """What a row's number is about."""

    REQUESTS = "requests"  #: That were served: the row has all of their details.
    PREDICTOR = "a predictor"  #: How near predictions come to lengths that are known.
    TARGET = "a training target"  #: What a predictor learns.
    COST = "the cost of predicting"  #: Time, on their hardware.


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
        absent: Why, for every column that is None.
        details: From `of_requests` or `without_requests`.
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
    absent: Mapping[str, Absent] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def agrees(self) -> bool | None:
        """Whether the reproduction is within its tolerance; None: no claim is made."""
        if self.theirs is None or self.reproduced is None or self.tolerance is None:
            return None
        return abs(self.reproduced - self.theirs) <= self.tolerance


def of_requests(workload: str, **columns: Mapping[str, Any]) -> dict[str, Any]:
    """The details of a row about requests.

    Args:
        workload: What was served, for a reader; rows of the same runs say the same.
        columns: Which run it is -> `table_details.describe` of it. `baseline` and every column of
            the row that has a number but `theirs`; more as it comes, such as `oracle`. Where the
            baselines of the reproduction and of the rest differ: `baseline_reproduced` and
            `baseline`.
    """
    return {"about": About.REQUESTS, "workload": workload, "columns": columns}


def without_requests(about: About, why: str) -> dict[str, Any]:
    """The details of a row that is about no requests.

    Args:
        about: What it is about instead.
        why: What was done for its numbers, or what would be.
    """
    return {"about": about, "why": why}


def lacks(row: Row) -> list[str]:
    """What a row leaves out without a reason; empty: nothing."""
    found = []
    for column in COLUMNS:
        if getattr(row, column) is None and not isinstance(row.absent.get(column), Absent):
            found.append(f"{column} is empty for no stated reason")
        if getattr(row, column) is not None and column in row.absent:
            found.append(f"{column} has a number, and a reason to have none")
    about = row.details.get("about")
    if not isinstance(about, About):
        return [*found, "it does not say what it is about"]
    if about is not About.REQUESTS:
        return (
            found if row.details.get("why") else [*found, "it does not say why it has no requests"]
        )
    wanted = [name for name in COLUMNS[1:] if getattr(row, name) is not None]
    for name in ("baseline", *wanted):
        run = row.details["columns"].get(name, {})
        found += [f"{name} lacks {key}" for key in KEYS if key not in run]
        buckets = run.get("buckets", {})
        found += [f"{name} lacks {bucket}" for bucket in BUCKETS if bucket not in buckets]
    return found


#: Gives its rows; the argument is a folder of recorded data, None: synthetic workloads only.
Rows = Callable[[Path | None], Sequence[Row]]

#: Every source: its name for `--only`, and where its function is, imported only when it is asked
#: for, because most need the extra `lab`.
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
    """Run the sources and put their rows into one object that JSON can hold.

    Args:
        data: A folder of recorded lengths, traces and predictions; None: synthetic workloads.
        only: Names out of `SOURCES`; empty: all.
        started: Called with the name of each source as it begins.

    Returns:
        `{"rows": [...], "seconds": {source: s}, "data": ...}`; a row's `row` is its number.

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
        for row in source(data):
            rows.append({"row": len(rows) + 1, "source": name, **as_dict(row)})
        seconds[name] = round(time.perf_counter() - begun, 1)
    return {"rows": rows, "seconds": seconds, "data": data is not None}


def as_dict(row: Row) -> dict[str, Any]:
    """A row as JSON holds it."""
    return asdict(row) | {"agrees": row.agrees}


def _names() -> str:
    return ", ".join(SOURCES) or "none"
