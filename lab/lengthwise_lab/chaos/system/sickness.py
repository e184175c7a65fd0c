"""How a sick engine answers: with errors, with silence, with garbage, or all at once.

Called by model_server.py, which has one engine for each worker and makes one of them sick for a
while. `lengthwise_worker.engines.simulated` has the same kinds in its `/admin/faults`; its answers
do not name their job, so the checks of a chaos run could not use them.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Sickness(StrEnum):
    """The kinds of sickness."""

    ERROR_500 = "error_500"  #: Every request gets a 500.
    NOT_FOUND = "not_found"  #: Every request gets a 404, though the model is listed.
    WRONG_MODEL = "wrong_model"  #: Another model is listed and served.
    HANG = "hang"  #: Requests are accepted, and nothing is sent.
    HANG_MIDWAY = "hang_midway"  #: Nothing more is sent after half of an answer.
    GARBAGE = "garbage"  #: Status 200 with something else than an answer, or half of one.
    LUMPS = "lumps"  #: Whole answers in one write. Not an error: each must be stored.


#: The name of the model that an engine with `WRONG_MODEL` lists.
OTHER_MODEL = "another-model"

#: Empty events before the first answer in lumps, more than Lua can unpack (about 8,000).
LUMP_EVENTS = 9_000

#: Bytes of one write, where an answer is cut into small writes without regard to its events.
_CRUMB_BYTES = 7


@dataclass
class Sick:
    """One episode of one engine.

    `releases`: whether calls that hang are broken off at its end, as by a restart of the engine;
    else they hang until the caller closes them.
    """

    kind: Sickness
    releases: bool
    over: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0  #: Calls so far. The variants of a kind take turns.

    @property
    def fails(self) -> bool:
        """Whether no answer is complete."""
        return self.kind is not Sickness.LUMPS

    async def hang(self, disconnected: asyncio.Future[None]) -> None:
        """Wait until the caller is gone, or the episode is over and releases the call."""
        if not self.releases:
            await asyncio.wait([disconnected])
            return
        over = asyncio.ensure_future(self.over.wait())
        waits: set[asyncio.Future[Any]] = {disconnected, over}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()


def error(sick: Sick, model: str) -> tuple[int, dict[str, Any]] | None:
    """Return the status and body of a kind that answers with an error; None: another kind."""
    match sick.kind:
        case Sickness.ERROR_500:
            return 500, {"error": {"message": "simulated sickness", "code": 500}}
        case Sickness.NOT_FOUND:
            return 404, {"error": {"message": "simulated sickness", "code": 404}}
        case Sickness.WRONG_MODEL:
            message = f"The model `{model}` does not exist."
            return 404, {"error": {"message": message, "type": "NotFoundError", "code": 404}}
    return None


def garbage(variant: int, whole: bytes, *, stream: bool) -> tuple[str, list[bytes]]:
    """Return the media type and the writes of a 200 that is no answer.

    Args:
        variant: Any number; the variants take turns. Half of an answer with `[DONE]` behind it is
            none of them: by the engine's own word it is whole.
        whole: The right answer, of which some variants send a part.
        stream: Whether the caller asked for events.
    """
    half = whole[: len(whole) // 2]
    if not stream:
        kind, body = (
            ("text/html", b"<html><body>It works!</body></html>"),
            ("application/json", b'{"hello": "world"}'),
            ("application/json", half),
            ("application/json", b""),
            ("application/json", b"\x00\xff\xfe garbage"),
        )[variant % 5]
        return kind, [body]
    events = half[: half.rfind(b"\n\n") + 2]  # whole events, of half of the answer
    done = b"data: [DONE]\n\n"
    kind, writes = (
        ("text/html", [b"<html><body>It works!</body></html>"]),
        ("text/event-stream", [b"data: \x00\xff\xfe garbage\n\n", done]),
        ("text/event-stream", [b'data: {"hello": "world"}\n\n', done]),
        ("text/event-stream", [events]),
        ("text/event-stream", [half]),
        ("text/event-stream", [done]),
        ("text/event-stream", []),
    )[variant % 7]
    return kind, writes


def lumps(variant: int, events: list[bytes], blank: bytes) -> list[bytes]:
    """Return the writes of a whole answer that comes at once.

    Args:
        variant: 0: behind `LUMP_EVENTS` events without text; odd: one write; even: many small ones
            that cut events in two.
        events: The answer's.
        blank: An event without text.
    """
    whole = b"".join(events)
    if variant == 0:
        return [blank * LUMP_EVENTS + whole]
    if variant % 2:
        return [whole]
    return [whole[i : i + _CRUMB_BYTES] for i in range(0, len(whole), _CRUMB_BYTES)]


def as_event(data: dict[str, Any]) -> bytes:
    """Encode one server-sent event."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"
