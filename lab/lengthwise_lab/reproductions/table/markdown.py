"""Show the table as Markdown. Called by `lengthwise lab table`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from lengthwise_lab.reproductions.table.details import BUCKETS
from lengthwise_lab.reproductions.table.row import COLUMNS, About, Absent

#: The letter in an empty cell.
_LETTERS = dict(zip(Absent, "abcdefgh", strict=False))

#: A note that so many rows share is a footnote.
_OFTEN = 3

#: The names of the runs behind a row.
_RUNS = {
    "baseline_reproduced": "baseline, by their rules",
    "baseline": "baseline",
    "baseline_whole": "baseline, to the end",
    "reproduced": "reproduced",
    "corrected": "corrected",
    "lengthwise": "lengthwise",
    "lengthwise_whole": "lengthwise, to the end",
}

_LEGEND = """\
*Published* is what they report, *reproduced* the same by their own rules, *corrected* without their
defects, *lengthwise* the policy of Lengthwise on the same workload. Lengths are {lengths};
docs/research/reproductions.md explains the rows. (!): a reproduction beyond its tolerance. A letter
replaces a missing number:

"""

_BEHIND = f"""\
Completion is from sending to the complete answer. Slowdown is completion over what the request
takes alone; Jain's index over the requests' slowdowns is 1 if all have the same. A request starved
if it waited more than 10 times what it takes alone; *overtaken* is by how much later a request was
sent that started before another, and how many places a request lost, at most. By length: the mean
for {" / ".join(BUCKETS)} output tokens.
"""


def as_markdown(table: Mapping[str, Any], *, runs_too: bool = True) -> str:
    """Return the rows of `collect` as a table for each system, and the runs behind its numbers.

    Args:
        table: The result of `collect`.
        runs_too: Whether the runs behind the numbers are shown, which needs a wide page.
    """
    lengths = "recorded" if table.get("data") else "stand-ins with the published moments"
    lines = [
        "# The four research systems' numbers",
        "",
        _LEGEND.rstrip("\n").format(lengths=lengths),
        "",
    ]
    lines += [f"- **{letter}**: {reason}" for reason, letter in _LETTERS.items()]
    if runs_too:
        lines += ["", _BEHIND.rstrip("\n")]
    by_system = sorted(table["rows"], key=lambda row: _order(table["rows"], row["system"]))
    for system, group in groupby(by_system, key=lambda row: row["system"]):
        rows = list(group)
        lines += ["", f"## {system}", "", *_numbers(rows)]
        runs = behind(rows)
        if runs and runs_too:
            lines += ["", f"### The requests behind {system}'s rows", "", *_requests(runs)]
        lines += ["", *_without(rows)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _order(rows: Sequence[Mapping[str, Any]], system: str) -> int:
    """Return a system's place: that of its first row."""
    return next(at for at, row in enumerate(rows) if row["system"] == system)


def _numbers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the rows; a note that several rows share is printed once, below them."""
    notes = Counter(part for row in rows for part in row["note"].split("; ") if part)
    often = [part for part, times in notes.items() if times >= _OFTEN]
    footnotes = {part: f"[{number}]" for number, part in enumerate(often, start=1)}
    lines = _head("row", "what", "setting", *(f"{name}:" for name in COLUMNS), "unit", "by", "note")
    for row in rows:
        numbers = [_cell(row, column) for column in COLUMNS]
        if row["agrees"] is False:
            numbers[1] += " (!)"
        parts = sorted(row["note"].split("; "), key=lambda part: part not in footnotes)
        note = footnotes.get(parts[0], parts[0])
        for before, part in pairwise(parts):
            note += (" " if before in footnotes else "; ") + footnotes.get(part, part)
        lines.append(
            _table_row(
                str(row["row"]),
                row["name"],
                row["setting"],
                *numbers,
                row["unit"],
                row["kind"],
                note,
            )
        )
    if footnotes:
        lines += ["", *(f"- {number} {part}" for part, number in footnotes.items())]
    return lines


def _cell(row: Mapping[str, Any], column: str) -> str:
    if row[column] is None:
        return _LETTERS[row["absent"][column]] if column in row["absent"] else "-"
    return f"{row[column]:,.0f}" if abs(row[column]) >= 1000 else f"{row[column]:.4g}"


@dataclass
class RunBehindRows:
    """One run: the rows that show it, its workload, its names in those rows, its details."""

    rows: list[int]
    workload: str
    names: list[str]
    run: Mapping[str, Any]


def behind(rows: Sequence[Mapping[str, Any]]) -> list[RunBehindRows]:
    """Return every run once, with all rows that show it; the runs of a workload are together."""
    found: dict[str, RunBehindRows] = {}
    for row in rows:
        if row["details"].get("about") != About.REQUESTS:
            continue
        workload, columns = row["details"]["workload"], row["details"]["columns"]
        for name, shown in _RUNS.items():
            if name not in columns:
                continue
            key = json.dumps(columns[name], sort_keys=True)
            one = found.setdefault(key, RunBehindRows([], workload, [], columns[name]))
            one.rows.append(row["row"])
            # A row that picks among settings names its workload at length; show the shortest.
            one.workload = min(one.workload, workload, key=len)
            if shown not in one.names:
                one.names.append(shown)
    places: dict[str, int] = {}
    for one in found.values():
        places.setdefault(one.workload, len(places))
    order = list(_RUNS.values())
    return sorted(found.values(), key=lambda one: (places[one.workload], order.index(one.names[0])))


def _requests(runs: Sequence[RunBehindRows]) -> list[str]:
    lines = _head(
        "rows", "workload", "run", "served by", "mean, s:", "p50:", "p99:", "max:",
        "by length, s:", "Jain:", "slowdown p50 / p99:", "longest wait, s:", "starved, %:",
        "overtaken, s / places:",
    )  # fmt: skip
    last = ""
    for one in runs:
        run = one.run
        served = run["policy"]
        if run["starvation"]["never_served"]:
            served += f" ({run['starvation']['never_served']:,} of {run['requests']:,} never)"
        took, fair, starved = run["completion_s"], run["fairness"], run["starvation"]
        slow = fair["slowdown"]
        lines.append(
            _table_row(
                _ranges(one.rows), "" if one.workload == last else one.workload,
                ", ".join(one.names), served,
                *(_number(took[point]) for point in ("mean", "p50", "p99", "max")),
                " / ".join(_number(run["buckets"][bucket].get("mean")) for bucket in BUCKETS),
                f"{fair['jain_of_slowdowns']:.2f}",
                f"{_number(slow['p50'])} / {_number(slow['p99'])}",
                _number(starved["max_wait_s"]),
                _number(100 * starved["share_waiting_over_10_times_its_length"]),
                f"{_number(starved['max_lag_s'])} / {starved['max_places_lost']}",
            )
        )  # fmt: skip
        last = one.workload
    return lines


def _without(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the rows that have no requests, with the reason."""
    reasons: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        about = row["details"].get("about")
        if about and about != About.REQUESTS:
            reasons.setdefault((about, row["details"]["why"]), []).append(row["row"])
    return [
        f"- Rows {_ranges(numbers)} are about {about}, not requests: {why}."
        for (about, why), numbers in reasons.items()
    ]


def _ranges(numbers: Sequence[int]) -> str:
    """Return `1, 3-5` for 1, 3, 4, 5."""
    found = []
    for _, run in groupby(enumerate(sorted(set(numbers))), key=lambda pair: pair[1] - pair[0]):
        several = [number for _, number in run]
        found.append(str(several[0]) if len(several) == 1 else f"{several[0]}-{several[-1]}")
    return ", ".join(found)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _head(*names: str) -> list[str]:
    """Return the first two lines of a table; numbers are in columns whose name ends in a colon."""
    return [
        _table_row(*(name.rstrip(":") for name in names)),
        "| " + " | ".join("---:" if name.endswith(":") else "---" for name in names) + " |",
    ]


def _table_row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
