from __future__ import annotations

import csv
import io

from lengthwise_lab.reproductions.table.spreadsheet import as_csv


def test_every_row_is_one_line_without_its_runs() -> None:
    rows = [
        {"row": 1, "theirs": 0.1234567, "ours": None, "absent": {"ours": "why"}, "details": {}},
        {"row": 2, "theirs": 30.5, "ours": 11.0, "absent": {}, "details": {"about": "x"}},
    ]
    want = [
        {"row": "1", "theirs": "0.123457", "ours": "", "absent": "ours: why"},
        {"row": "2", "theirs": "30.5", "ours": "11", "absent": ""},
    ]
    assert list(csv.DictReader(io.StringIO(as_csv({"rows": rows})))) == want
