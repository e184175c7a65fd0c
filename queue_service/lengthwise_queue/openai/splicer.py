"""Splices a repeated attempt into a stream whose beginning the client already has. Pure.

The engine's chunks are sent unchanged. When a worker dies in the middle of an answer, the second
attempt starts from nothing, while the client already has a part. `Splicer` leaves out what the new
attempt repeats and continues with the rest. Where the attempts differ, the stream ends with an
error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from lengthwise_queue.errors import AttemptRestarted
from lengthwise_queue.openai.chunks import index_of, objects, parse_chunk
from lengthwise_queue.openai.endpoint import Endpoint


class _Diverged(Exception):
    """The new attempt differs from what the client already has."""


@dataclass
class _Choice:
    """The part of one choice that the client has; texts by field (`content`, `text`, ...)."""

    parts: dict[str, list[str]] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)  #: At the start of the current attempt.
    repeated: dict[str, int] = field(default_factory=dict)  #: Characters of `sent` seen again.
    role_sent: bool = False
    opaque: bool = False  #: Something was sent that cannot be compared, such as a tool call.
    opaque_before: bool = False  #: ... by an earlier attempt.
    finished: bool = False

    def caught_up(self) -> bool:
        """Return whether the current attempt has repeated everything that was sent before it."""
        return all(self.repeated.get(name, 0) >= len(text) for name, text in self.sent.items())

    def note(self, name: str, value: Any) -> None:
        """Record that `value` is sent to the client."""
        if name == "role":
            self.role_sent = True
        elif isinstance(value, str):
            self.parts.setdefault(name, []).append(value)
        elif value:
            self.opaque = True


class Splicer:
    """Finds the part of each chunk that one client still needs."""

    def __init__(self, endpoint: Endpoint[Any], job_id: str) -> None:
        self._endpoint = endpoint
        self._job_id = job_id
        self._choices: dict[int, _Choice] = {}
        self._identity: dict[str, Any] = {}  #: `id` and `created` of the first attempt.
        self._replaying = False
        self._unreadable = False

    def new_attempt(self) -> None:
        """Note that the chunks that follow belong to a new attempt."""
        self._replaying = bool(self._choices) or self._unreadable
        for choice in self._choices.values():
            choice.sent = {name: "".join(parts) for name, parts in choice.parts.items()}
            choice.parts = {name: [text] for name, text in choice.sent.items()}
            choice.repeated = {}
            choice.opaque_before = choice.opaque

    def end(self) -> None:
        """Check the complete answer.

        Raises:
            AttemptRestarted: The answer is shorter than what was sent.
        """
        if not all(choice.caught_up() for choice in self._choices.values()):
            raise self._restarted()

    def feed(self, data: bytes) -> bytes | None:
        """Return the part of the next chunk to send; None: the client has all of it.

        Raises:
            AttemptRestarted: The new attempt does not repeat what was sent, or cannot be compared.
        """
        chunk = parse_chunk(data)
        if not self._replaying:
            self._note(chunk)
            return data
        try:
            return self._rest(chunk, data)
        except _Diverged:
            raise self._restarted() from None

    def _restarted(self) -> AttemptRestarted:
        path = f"/v1/jobs/{self._job_id}"
        return AttemptRestarted(
            "The worker was lost during the answer, and the new attempt does not continue what was "
            f"sent, so this stream ends. GET {path} returns the whole answer when it is complete; "
            f"{path}/stream has the new attempt from its start."
        )

    def _note(self, chunk: dict[str, Any] | None) -> None:
        if chunk is None:
            self._unreadable = True
            return
        if not self._identity:
            self._identity = {k: chunk[k] for k in ("id", "created") if k in chunk}
        for choice in objects(chunk.get("choices")):
            known = self._choices.setdefault(index_of(choice), _Choice())
            for name, value in self._endpoint.delta(choice).items():
                known.note(name, value)
            known.finished |= choice.get("finish_reason") is not None

    def _rest(self, chunk: dict[str, Any] | None, data: bytes) -> bytes | None:
        if chunk is None or self._unreadable:
            raise _Diverged
        choices = objects(chunk.get("choices"))
        if choices:
            kept = [new for new in map(self._rest_of_choice, choices) if new is not None]
            if not kept:
                return None
            chunk["choices"] = kept
        elif "choices" not in chunk:  # an engine's own event, such as an error
            return data
        return json.dumps(chunk | self._identity, ensure_ascii=False).encode()

    def _rest_of_choice(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        known = self._choices.setdefault(index_of(choice), _Choice())
        if known.opaque_before:
            raise _Diverged
        fields = self._endpoint.delta(choice)
        rest = {name: self._rest_of_field(known, name, v) for name, v in fields.items()}
        new = {name: value for name, value in rest.items() if value}
        cut = any(
            isinstance(v, str) and 0 < len(new.get(n, "")) < len(v) for n, v in fields.items()
        )
        finish = choice.get("finish_reason")
        if cut and choice.get("logprobs"):
            raise _Diverged  # a logprob belongs to a whole token, and one was cut in two
        if (new or finish is not None) and not known.caught_up():
            raise _Diverged  # shorter than what was sent, or in another order
        if known.finished:
            if new:
                raise _Diverged  # longer than what was sent as finished
            return None
        if not new and finish is None:
            return None
        for name, value in new.items():
            known.note(name, value)
        known.finished = finish is not None
        kept = self._endpoint.with_delta(choice, new)
        if not new and kept.get("logprobs"):
            kept["logprobs"] = None
        return kept

    @staticmethod
    def _rest_of_field(known: _Choice, name: str, value: Any) -> Any:
        if name == "role":
            return None if known.role_sent else value
        if not isinstance(value, str):
            return value
        at = known.repeated.get(name, 0)
        again = known.sent.get(name, "")[at : at + len(value)]
        if not value.startswith(again):
            raise _Diverged
        known.repeated[name] = at + len(again)
        return value[len(again) :]
