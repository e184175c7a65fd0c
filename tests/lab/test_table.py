from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from lengthwise_lab import table
from lengthwise_lab.errors import BadChoice
from lengthwise_lab.table import Row, as_dict, as_markdown, collect
from lengthwise_lab.table_chart import draw


def row(**changes: float | None) -> Row:
    values: dict[str, float | None] = {"theirs": 10.0, "reproduced": 10.4, "tolerance": 0.5}
    return Row(seed="LTR", name="n", setting="a | b", unit="s", kind="blog", **(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, True),
        ({"reproduced": 10.6}, False),
        ({"tolerance": None}, None),
        ({"theirs": None}, None),
    ],
    ids=["within", "beyond", "no claim", "nothing to compare with"],
)
def test_a_row_says_whether_the_reproduction_is_within_its_tolerance(
    changes: dict[str, float | None], want: bool | None
) -> None:
    assert row(**changes).agrees is want


def test_the_table_holds_the_rows_of_every_source(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ModuleType("some_source")
    vars(source)["rows"] = lambda data: [row(), row(reproduced=12.0)]
    monkeypatch.setitem(sys.modules, "some_source", source)
    monkeypatch.setattr(table, "SOURCES", {"mine": "some_source:rows"})
    result = collect(None)
    assert [r["agrees"] for r in result["rows"]] == [True, False]
    text = as_markdown(result)
    assert "a / b" in text
    assert "12 (!)" in text


def test_the_picture_of_a_table_stands_rows_without_numbers(tmp_path: Path) -> None:
    rows = [as_dict(row()), as_dict(row(theirs=None)), as_dict(row(reproduced=None))]
    draw({"rows": rows}, tmp_path / "table.png")
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")


def test_a_part_that_is_not_there_is_refused_with_the_list() -> None:
    with pytest.raises(BadChoice, match="nonsense"):
        collect(None, ["nonsense"])


def test_a_data_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadChoice, match="gone"):
        collect(tmp_path / "gone")
