from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lengthwise_cli.main import build
from lengthwise_lab.errors import BadChoice
from lengthwise_lab.reproductions import predictor_rows
from lengthwise_lab.reproductions.ltr import rows as ltr_rows
from lengthwise_lab.reproductions.problen import rows as problen_rows
from lengthwise_lab.reproductions.seqsch import rows as seqsch_rows
from lengthwise_lab.reproductions.ssjf import cross_check, steady_load, sweeps
from lengthwise_lab.reproductions.ssjf import rows as ssjf_rows
from lengthwise_lab.reproductions.table import sources
from lengthwise_lab.reproductions.table.chart import draw
from lengthwise_lab.reproductions.table.details import RequestTimes, describe
from lengthwise_lab.reproductions.table.markdown import as_markdown
from lengthwise_lab.reproductions.table.row import (
    About,
    Absent,
    TableRow,
    as_dict,
    lacks,
    of_requests,
    without_requests,
)
from lengthwise_lab.reproductions.table.sources import collect

SOME = describe(
    [
        RequestTimes(
            arrival_s=np.zeros(2),
            start_s=np.array([0.0, 1.0]),
            end_s=np.array([1.0, 3.0]),
            alone_s=np.array([1.0, 2.0]),
            tokens=np.array([10.0, 2000.0]),
        )
    ],
    policy="fcfs",
)
NONE = {"corrected": Absent.NO_DEFECT, "lengthwise": Absent.NO_ORDER}


def row(**changes: Any) -> TableRow:
    values: dict[str, Any] = {
        "published": 10.0,
        "reproduced": 10.4,
        "tolerance": 0.5,
        "absent": NONE,
        "details": of_requests("w", baseline=SOME, reproduced=SOME),
    }
    return TableRow(
        system="LTR", name="n", setting="a | b", unit="s", kind="blog", **(values | changes)
    )


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, True),
        ({"reproduced": 10.6}, False),
        ({"tolerance": None}, None),
        ({"published": None}, None),
    ],
    ids=["within", "beyond", "no claim", "nothing to compare with"],
)
def test_a_row_knows_whether_the_reproduction_is_within_its_tolerance(
    changes: dict[str, float | None], want: bool | None
) -> None:
    assert row(**changes).agrees is want


def test_the_table_holds_the_rows_of_every_source(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ModuleType("some_source")
    vars(source)["rows"] = lambda data: [row(), row(reproduced=12.0)]
    monkeypatch.setitem(sys.modules, "some_source", source)
    monkeypatch.setattr(sources, "SOURCES", {"mine": "some_source:rows"})
    result = collect(None)
    assert [r["agrees"] for r in result["rows"]] == [True, False]
    text = as_markdown(result)
    assert "a / b" in text
    assert "12 (!)" in text
    # Both rows have the same run, which is printed once.
    assert text.count("| 1-2 | w | baseline, reproduced | fcfs | 2 |") == 1


PREDICTOR = without_requests(About.PREDICTOR, "it predicts")
WITHOUT_BUCKETS = {key: value for key, value in SOME.items() if key != "buckets"} | {"buckets": {}}


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, ""),
        ({"details": PREDICTOR}, ""),
        ({"absent": {}}, "corrected is empty for no stated reason"),
        (
            {"absent": NONE | {"reproduced": Absent.MODEL}},
            "reproduced has a number, and a reason to have none",
        ),
        ({"absent": NONE | {"lengthwise": "too late"}}, "lengthwise is empty for no stated reason"),
        ({"details": {}}, "its details have no subject"),
        ({"details": without_requests(About.COST, "")}, "give no reason for having no requests"),
        ({"details": of_requests("w", baseline=SOME)}, "reproduced lacks completion_s"),
        ({"details": of_requests("w", reproduced=SOME)}, "baseline lacks starvation"),
        (
            {"details": of_requests("w", baseline=SOME, reproduced=WITHOUT_BUCKETS)},
            "reproduced lacks 65-256",
        ),
    ],
    ids=[
        "whole", "about a predictor", "no reason", "needless reason", "a reason of its own",
        "no details", "no why", "a column without its run", "no baseline", "no buckets",
    ],
)  # fmt: skip
def test_what_a_row_leaves_out_is_named(changes: dict[str, Any], want: str) -> None:
    found = lacks(row(**changes))
    assert any(want in one for one in found) if want else found == []


#: The number of rows that are not about requests, by system and by subject.
WITHOUT_REQUESTS = {
    ("SSJF", "a predictor"): 12,
    ("SSJF", "the cost of predicting"): 2,
    ("SeqSch", "a predictor"): 7,
    ("LTR", "a predictor"): 17,
    ("LTR", "the cost of predicting"): 2,
    ("ProbLen", "a predictor"): 7,
    ("ProbLen", "a training target"): 4,
}


@pytest.fixture(scope="module")
def small_table() -> dict[str, Any]:
    """Return every row, of runs too small for their numbers to mean anything."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(cross_check, "SEEDS", range(2))
        changed.setattr(cross_check, "JOBS", 100)
        changed.setattr(steady_load, "SEEDS", 1)
        changed.setattr(steady_load, "JOBS", 100)
        changed.setattr(sweeps, "RUNS", 1)
        changed.setattr(ltr_rows, "BURST", 100)
        changed.setattr(ltr_rows, "SYNTHETIC", 1000)
        changed.setattr(ltr_rows, "RATE_S", 2)
        changed.setattr(problen_rows, "_PROMPTS", 512)
        changed.setattr(seqsch_rows, "RUNS", 1)
        return {
            "rows": [
                found
                for module in (
                    ssjf_rows, seqsch_rows, problen_rows, cross_check, ltr_rows, predictor_rows,
                )
                for found in module.rows(None)
            ]
        }  # fmt: skip


@pytest.mark.slow
def test_every_row_has_all_its_details_or_a_reason_for_having_none(
    small_table: dict[str, Any],
) -> None:
    assert len(sources.SOURCES) == 6  # as many as the fixture runs
    assert [(one.name, one.setting, lacks(one)) for one in small_table["rows"] if lacks(one)] == []


@pytest.mark.slow
def test_only_rows_about_predictors_have_no_requests(small_table: dict[str, Any]) -> None:
    found = Counter(
        (one.system, str(one.details["about"]))
        for one in small_table["rows"]
        if one.details["about"] != About.REQUESTS
    )
    assert found == WITHOUT_REQUESTS


@pytest.mark.slow
def test_a_row_about_requests_has_a_number_of_our_policy(small_table: dict[str, Any]) -> None:
    rows = [one for one in small_table["rows"] if one.details["about"] == About.REQUESTS]
    assert rows
    assert all(one.lengthwise is not None for one in rows)
    for one in rows:
        # Only the pairwise predictor could not be reproduced. FCFS, the oracle and the simulations
        # other than SSJF's have no defect to correct.
        assert one.reproduced is not None or "pairwise" in one.name
        assert (
            one.corrected is not None
            or "clean simulator" in one.setting
            or "toy example" in one.name
        )


@pytest.mark.slow
def test_the_whole_table_is_json_and_markdown_that_names_every_row(
    small_table: dict[str, Any],
) -> None:
    rows = [{"row": n, **as_dict(one)} for n, one in enumerate(small_table["rows"], start=1)]
    text = as_markdown({"rows": json.loads(json.dumps(rows, allow_nan=False))})
    lines = text.splitlines()
    for one in rows:
        assert any(line.startswith(f"| {one['row']} | {one['name']}") for line in lines)
    tables = [line.count("|") for line in lines if line.startswith("|")]
    assert set(tables) == {11, 15}


def test_a_table_with_rows_without_numbers_can_be_drawn(tmp_path: Path) -> None:
    rows = [row(), row(published=None), row(reproduced=None), row(details=PREDICTOR)]
    draw(
        {"rows": [{"row": n, **as_dict(one)} for n, one in enumerate(rows)]}, tmp_path / "table.png"
    )
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")


def test_a_note_that_several_rows_share_is_printed_once_below_them() -> None:
    rows = [row(note=f"own {n}; shared by all") for n in range(3)]
    text = as_markdown({"rows": [{"row": n, **as_dict(one)} for n, one in enumerate(rows)]})
    assert text.count("shared by all") == 1
    assert "| [1] own 2 |" in text


@pytest.mark.slow
def test_the_command_prints_markdown_to_a_pipe_and_everything_as_json() -> None:
    plain, as_json = (
        CliRunner().invoke(build(), ["lab", "table", "--only", "seqsch", *flags])
        for flags in ([], ["--json"])
    )
    assert plain.exit_code == as_json.exit_code == 0, plain.output
    assert "### The requests behind SeqSch's rows" in plain.stdout
    found = json.loads(as_json.stdout)["rows"][0]
    assert found["row"] == 1
    assert found["details"]["columns"]["lengthwise"]["completion_s"]["count"] == 5 * 1024


def test_an_unknown_part_is_refused_with_the_list_of_the_known() -> None:
    with pytest.raises(BadChoice, match=r"nonsense.*seqsch"):
        collect(None, ["nonsense"])


def test_a_missing_data_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadChoice, match="gone"):
        collect(tmp_path / "gone")
