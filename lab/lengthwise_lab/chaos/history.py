"""The history of a run: one JSON object a line, in the order in which things were seen.

Every event has `t` (s since the run began, monotonic), `op`, and `type` as in Jepsen's histories:
`invoke` when something is begun, then `ok` (it happened), `fail` (it certainly did not) or `info`
(nobody knows: the reply was lost). One process writes it, so the lines are in order.

| op | its other fields |
| --- | --- |
| run | seed, jobs, settings: how it was set up; the first line |
| submit | ref, key, spec; ok: id, state, accepted_ms, due_ms, tries; fail: status |
| cancel | ref, id; ok: state, requested |
| conflict | ref, status: what another request under its key was answered |
| chat | ref, id, text, tries: an OpenAI stream; fail: the job ended without an answer |
| price | id, predicted_ms, ...: why a job is due when it is due |
| read | ref, id, entries: all that one reader saw, over all its reconnects; ended |
| execute | ref, run: a call of the engine; ok: it answered to the end |
| fault | kind, at: what the nemesis did |
| peek | id, by, status: what another tenant was told of it |
| internal_error | where: an answer with status 500 |
| final | id, found, state, ...: the job's record at the very end |
| output | id, entries: its whole output, read anew at the very end |
| view | id, state, text: what the service says of it at the very end |
| stored | ids of all jobs that Redis holds at the end |
| queue | depth, scheduled, in_flight, counters at the end |
| stall, drain | fail: nothing moved any more; jobs were left when time was up |
| exits | process, statuses: how it ended each time; a signal's is negative |
| end | the last line |
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

Event = dict[str, Any]


class History:
    """Writes a history. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """The file is made anew."""
        self.path = path
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._start_s = time.monotonic()

    def __enter__(self) -> History:
        """It is open already."""
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
        """Since the run began."""
        return time.monotonic() - self._start_s

    def write(self, op: str, kind: str, /, **fields: Any) -> None:
        """Add one event; a crash of this process loses the last few."""
        event = {"t": round(self.seconds, 6), "op": op, "type": kind} | fields
        self._file.write(json.dumps(event, separators=(",", ":")) + "\n")


def read(path: Path) -> Iterator[Event]:
    """The events of a history, in order.

    Raises:
        ValueError: A line is not a JSON object; the message names it.
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
