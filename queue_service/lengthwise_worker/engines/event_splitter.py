"""Splits an engine's stream of bytes into the data of its server-sent events. Pure.

It is the worker's hot path. A library was measured at half its speed and has no interface for
bytes: docs/decisions/0070-libraries-for-what-is-not-our-purpose.md. Called by answer_reader.py.
"""

from __future__ import annotations

import re

from lengthwise_worker.errors import EngineFailed

#: Longest event and longest whole answer, bytes. Redis takes 512 MB at most in one piece.
LONGEST_BYTES = 64 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"

#: What may stand behind a `[DONE]` whose event has no blank line.
_DONE_LINE = re.compile(rb"(?:^|\n)data: ?\[DONE\][ \t]*\n?$")


class EventSplitter:
    """Splits bytes into events, however they are cut. Comments, ids and times are dropped.

    Lines may end with LF, CRLF or CR, and a byte order mark may come first, as the standard has it
    (https://html.spec.whatwg.org/multipage/server-sent-events.html). The data of an event of type
    `error` is wrapped in `{"error": ...}` unless it has that shape.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that `data` completes, in order.

        Raises:
            EngineFailed: An event is longer than `LONGEST_BYTES`.
        """
        if self._after_cr and data:
            data, self._after_cr = data.removeprefix(b"\n"), False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if self._rest:
            data = self._rest + data
        if not self._begun:
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._rest = data
                return []
            data, self._begun = data.removeprefix(_BOM), True
        *events, self._rest = data.split(b"\n\n")
        if len(self._rest) > LONGEST_BYTES:
            raise EngineFailed(f"An event of the engine is longer than {LONGEST_BYTES} bytes.")
        found = []
        for event in events:
            if event.startswith(b"data: ") and b"\n" not in event:
                found.append(event[6:])
            elif (read := _data_of(event)) is not None:
                found.append(read)
        if self._rest.endswith((b"]", b"]\n")) and _DONE_LINE.search(self._rest):
            # Some servers end with it and keep the connection open.
            found += self.end()
        return found

    def end(self) -> list[bytes]:
        """Return the event that the end of the stream completes, if there is one."""
        rest, self._rest = self._rest, b""
        read = _data_of(rest)
        return [] if read is None else [read]


def _data_of(event: bytes) -> bytes | None:
    """Return the data of an event; None: it has none."""
    lines, is_error = [], False
    for line in event.split(b"\n"):
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            is_error = line[6:].strip() == b"error"
    if not lines:
        return None
    data = b"\n".join(lines)
    if is_error and b'"error"' not in data:
        return b'{"error":' + (data if data.lstrip()[:1] == b"{" else b'"unknown"') + b"}"
    return data
