"""The table of headline numbers as CSV: one line for each row, without the runs behind it.

Called by `lengthwise lab table --csv FILE`, which writes docs/research/reproductions.csv.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any


def as_csv(table: Mapping[str, Any]) -> str:
    """Write the rows of `collect` as CSV.

    Args:
        table: The result of `collect`.

    Returns:
        A header and one line for each row. Numbers have six significant digits. `absent` lists the
        columns without a number, each with its reason.
    """
    rows = table["rows"]
    names = [name for name in rows[0] if name != "details"] if rows else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in names])
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return "; ".join(f"{column}: {reason}" for column, reason in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
