from __future__ import annotations

import csv
import io

from lengthwise_lab.reproductions.table.spreadsheet import as_csv


def test_every_row_is_one_line_without_its_runs() -> None:
    rows = [
        {
            "row": 1,
            "published": 0.1234567,
            "lengthwise": None,
            "absent": {"lengthwise": "why"},
            "details": {},
        },
        {"row": 2, "published": 30.5, "lengthwise": 11.0, "absent": {}, "details": {"about": "x"}},
    ]
    want = [
        {"row": "1", "published": "0.123457", "lengthwise": "", "absent": "lengthwise: why"},
        {"row": "2", "published": "30.5", "lengthwise": "11", "absent": ""},
    ]
    assert list(csv.DictReader(io.StringIO(as_csv({"rows": rows})))) == want
