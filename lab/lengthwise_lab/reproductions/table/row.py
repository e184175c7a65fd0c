"""One row of the table: a headline number as published, reproduced, corrected, and by Lengthwise.

Nothing in a row is left out without a reason: a column without a number has one, and so has a row
without requests. Made by the sources (sources.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from lengthwise_lab.reproductions.table.details import BUCKETS, KEYS

#: The four research systems, as the table names them.
ResearchSystem = Literal["SSJF", "SeqSch", "LTR", "ProbLen"]

#: The origin of a number, and so how far it can be trusted: what they print, what running their
#: code gave, or (for checks of Lengthwise) what another simulator gave for the same setting.
NumberSource = Literal[
    "paper", "readme", "blog", "their code, run", "code comment", "third party", "other simulator"
]

#: The columns of a row, in their order.
COLUMNS = ("published", "reproduced", "corrected", "lengthwise")


class Absent(StrEnum):
    """The reasons why a column of a row has no number."""

    NOT_PUBLISHED = "they publish no such number"
    INPUTS = "what it was measured on is not published: weights, predictions or texts"
    MODEL = "needs a trained model, its texts or its GPU, which the lab does not carry"
    HARDWARE = "a time on their hardware, of a program that does not run here"
    NO_DEFECT = "no defect affects it: reproduced is also the corrected number"
    NO_ORDER = "no request is served, so there is nothing that a policy could order"


class About(StrEnum):
    """The subject of a row's number."""

    REQUESTS = "requests"  #: Served requests: the row has all of their details.
    PREDICTOR = "a predictor"  #: How near predictions come to known lengths.
    TARGET = "a training target"  #: What a predictor learns.
    COST = "the cost of predicting"  #: Time, on their hardware.


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One headline number of a research system, and what the lab found for it.

    Attributes:
        system: The system that published it.
        name: What is measured, such as "mean completion time, cut against FCFS".
        setting: The workload and the engine, so that a reader can repeat it.
        unit: Of the four numbers, such as "%", "x", "s/token".
        published: The published number; None: nothing that can be checked.
        kind: The origin of `published`.
        reproduced: The same number by their own rules, defects included; None: not possible here.
        corrected: The same number with their defects fixed, or measured fairly; None: no defect
            matters to it, or not possible here.
        lengthwise: Our policy on the same workload, measured as `corrected`; None: does not apply.
        tolerance: How far `reproduced` may be from `published`, in `unit`; None: no claim is made.
        note: What a reader must know to read the numbers correctly: substitutes, artefacts.
        absent: The reason for every column that is None.
        details: From `of_requests` or `without_requests`.
    """

    system: ResearchSystem
    name: str
    setting: str
    unit: str
    published: float | None
    kind: NumberSource
    reproduced: float | None = None
    corrected: float | None = None
    lengthwise: float | None = None
    tolerance: float | None = None
    note: str = ""
    absent: Mapping[str, Absent] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def agrees(self) -> bool | None:
        """Whether the reproduction is within its tolerance; None: no claim is made."""
        if self.published is None or self.reproduced is None or self.tolerance is None:
            return None
        return abs(self.reproduced - self.published) <= self.tolerance


def of_requests(workload: str, **columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the details of a row about requests.

    Args:
        workload: The workload, for a reader; rows of the same runs have the same text.
        columns: Name of a run -> `details.describe` of it. `baseline` and every column of the row
            with a number, except `published`; others are optional, such as `oracle`. Where the
            baselines of the reproduction and of the rest differ: `baseline_reproduced` and
            `baseline`.
    """
    return {"about": About.REQUESTS, "workload": workload, "columns": columns}


def without_requests(about: About, why: str) -> dict[str, Any]:
    """Return the details of a row that is not about requests.

    Args:
        about: The subject of the row.
        why: How its numbers were found, or how they would be.
    """
    return {"about": about, "why": why}


def lacks(row: TableRow) -> list[str]:
    """List what a row leaves out without a reason; empty: nothing."""
    found = []
    for column in COLUMNS:
        if getattr(row, column) is None and not isinstance(row.absent.get(column), Absent):
            found.append(f"{column} is empty for no stated reason")
        if getattr(row, column) is not None and column in row.absent:
            found.append(f"{column} has a number, and a reason to have none")
    about = row.details.get("about")
    if not isinstance(about, About):
        return [*found, "its details have no subject"]
    if about is not About.REQUESTS:
        return (
            found
            if row.details.get("why")
            else [*found, "its details give no reason for having no requests"]
        )
    wanted = [name for name in COLUMNS[1:] if getattr(row, name) is not None]
    for name in ("baseline", *wanted):
        run = row.details["columns"].get(name, {})
        found += [f"{name} lacks {key}" for key in KEYS if key not in run]
        buckets = run.get("buckets", {})
        found += [f"{name} lacks {bucket}" for bucket in BUCKETS if bucket not in buckets]
    return found


def as_dict(row: TableRow) -> dict[str, Any]:
    """Return a row as values that JSON can hold."""
    return asdict(row) | {"agrees": row.agrees}
