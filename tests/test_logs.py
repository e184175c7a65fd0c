"""Log lines are JSON objects with the fields that operators search by."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from lengthwise_contract.logs import json_formatter


def formatted(**fields: object) -> dict[str, object]:
    record = logging.makeLogRecord(
        {"name": "lengthwise_worker.job_run", "levelname": "INFO", "created": 1.5, "msg": "m"}
        | fields
    )
    line = json_formatter().format(record)
    assert "\n" not in line
    return dict(json.loads(line))


def test_a_line_has_time_level_logger_message_and_the_fields_of_extra() -> None:
    line = formatted(msg="job %s", args=("done",), job_id="0193", queue="m")
    assert line == {
        "time": "1970-01-01T00:00:01.500000+00:00",
        "level": "INFO",
        "logger": "lengthwise_worker.job_run",
        "message": "job done",
        "job_id": "0193",
        "queue": "m",
    }


def test_an_exception_is_one_field_of_its_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        line = formatted(exc_info=sys.exc_info())
    assert str(line["exception"]).endswith("ValueError: broken")


def test_a_value_that_json_does_not_have_is_written_as_text() -> None:
    line = formatted(path=Path("/a"), cause=ValueError("b"), ids={1})
    assert (line["path"], line["cause"], line["ids"]) == ("/a", "ValueError: b", "{1}")


def test_the_colours_of_uvicorn_are_left_out() -> None:
    assert "color_message" not in formatted(color_message="\x1b[32mm")
