"""The history of a run: one JSON object a line, in the order in which the events were observed.

Every event has `t` (s since the start of the run, monotonic), `op`, and `type` as in Jepsen's
histories: `invoke` for the start of an operation, then `ok` (it happened), `fail` (it did not
happen) or `info` (unknown: the reply was lost). One process writes it, so the lines are in order.

| op | other fields |
| --- | --- |
| run | seed, jobs, settings of the run; the first line |
| submit | ref, key, spec; ok: id, state, accepted_ms, due_ms, tries; fail: status |
| cancel | ref, id; ok: state, requested |
| conflict | ref, status: the response to a different request under its key |
| chat | ref, id, text, tries: an OpenAI stream; fail: the job ended without an answer |
| refused | ref, key, status, code, id: an error that answered a submit; id: the job it names |
| left | ref, id, status: a client without a key is gone, and has no answer |
| price | id, predicted_ms, ...: the parts of a job's due time |
| read | ref, id, entries, connections: what one reader saw in all its connections; ok: to the end |
| execute | ref, run, worker, sick: an engine call; ok: the answer was complete |
| batch | ref, lines, fates; ok: id, status, cancelled, counts, results; info: it has not ended |
| setting | values: a write of some settings; fail: it was refused |
| settings | values: a read of the settings |
| fault | kind, at: a fault of the nemesis |
| peek | id, by, status: the response to another tenant |
| internal_error | where: a response with status 500 |
| final | id, found, state, ...: the job's record at the end |
| output | id, entries: the whole output at the end |
| view | id, state, text: what the service returns at the end |
| stored | ids of all jobs in Redis at the end |
| queue | depth, scheduled, in_flight, counters at the end |
| stall, drain | fail: no job made progress; jobs were left after the time limit |
| exits | process, statuses: its exit statuses; negative for a signal |
| end | the last line |
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

HistoryEvent = dict[str, Any]


class History:
    """Writes a history. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Create the file, or empty it."""
        self.path = path
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._start_s = time.monotonic()
        self.start_ms = time.time() * 1000  #: The start of the run, ms since the epoch.

    def __enter__(self) -> History:
        """Return the history. The file is open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.close()

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self._start_s

    def write(self, op: str, kind: str, /, **fields: Any) -> None:
        """Add an event. A crash of this process loses the last events."""
        event = {"t": round(self.seconds, 6), "op": op, "type": kind} | fields
        self._file.write(json.dumps(event, separators=(",", ":")) + "\n")


def read(path: Path) -> Iterator[HistoryEvent]:
    """Yield the events of a history, in order.

    Raises:
        ValueError: A line is not an event; the message names it.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                event = json.loads(line)
            except ValueError as exc:
                raise ValueError(f"{path}:{number} is not JSON: {exc}") from exc
            if not isinstance(event, dict) or "op" not in event or "type" not in event:
                raise ValueError(f"{path}:{number} is not an event of a history")
            yield event
