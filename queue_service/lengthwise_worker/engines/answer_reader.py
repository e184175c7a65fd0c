"""Reads one 2xx response of an engine, and decides whether it is a complete answer. Pure.

What the engine calls its content does not matter: some send streams as text/plain, some send one
JSON body to a request for a stream. A complete answer counts however its connection ends; an
incomplete one, and anything that is no answer, is a failure of the engine. Called by
openai_http.py.
"""

from __future__ import annotations

from typing import Any

from lengthwise_worker.engines import wire
from lengthwise_worker.engines.base import EngineResponse, Sink
from lengthwise_worker.engines.event_splitter import LONGEST_BYTES, EventSplitter
from lengthwise_worker.errors import EngineFailed

#: `finish_reason`s of an answer that the engine gave up.
_GIVEN_UP = frozenset({"error", "abort"})


class AnswerReader:
    """Takes the bytes of one response. Each piece of a stream goes to `sink`.

    `done`: nothing more is expected. `complete`: every choice has its `finish_reason`, or the body
    is whole; only token counts may follow.
    """

    def __init__(self, request: wire.EngineRequest, sink: Sink) -> None:
        """`request`: what the engine was sent."""
        self._request, self._sink = request, sink
        self._splitter = EventSplitter()
        self._head, self._streams = b"", False  # until the first byte that is not white space
        self._body: list[bytes] | None = None  #: Of a response that is not a stream.
        self._length = 0
        self._usage = wire.Usage()
        self._unfinished: set[int] = set()
        self._finished: set[int] = set()
        self.done = False

    @property
    def complete(self) -> bool:
        """Whether the answer is complete, though the response has not ended."""
        if self._body is not None:
            last = self._body[-1].rstrip()[-1:] if self._body else b""
            return last == b"}" and wire.parse(b"".join(self._body)) is not None
        return self.done or len(self._finished) >= self._request.choices

    def feed(self, data: bytes) -> None:
        """Read more bytes.

        Raises:
            EngineError: They are no answer, or they report an error.
        """
        if self._body is not None:
            self._add_to_body(self._body, data)
            return
        if not self._streams:
            data = self._head + data
            begin = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
            if not begin or len(data) < 3:
                self._head = data
                return
            if begin in b"{[<":
                self._body = []
                self._add_to_body(self._body, data)
                return
            self._streams = True
        for event in self._splitter.feed(data):
            self._read_event(event)
            if self.done:
                return

    def end(self) -> EngineResponse:
        """Return the answer, at the end of the response or after its connection broke.

        Raises:
            EngineError: It is incomplete, or no answer.
        """
        if self._body is None and not self._streams:
            if not self._head.strip():
                raise EngineFailed("The engine sent an empty answer.")
            self._streams = True
            for event in self._splitter.feed(self._head):
                self._read_event(event)
        if self._body is not None:
            return self._whole(b"".join(self._body))
        if not self.done:
            for event in self._splitter.end():
                if event.strip() == b"[DONE]" or wire.parse(event) is not None:
                    self._read_event(event)
        if not self._finished and not self._unfinished:
            raise EngineFailed("The engine sent a stream without an answer.")
        if not self.done and (self._unfinished or not self._finished):
            raise EngineFailed("The engine's stream ended before its answer was complete.")
        return self._response()

    # ------------------------------------------------------------------ a stream

    def _read_event(self, data: bytes) -> None:
        if data == b"[DONE]" or data.strip() == b"[DONE]":
            self.done = True
            return
        event = wire.parse(data)
        if (
            self._finished
            and self.complete
            and not (isinstance(event, dict) and "choices" in event)
        ):
            self.done = not isinstance(event, dict) or "error" in event
            if self.done:
                return  # the answer is complete; what went wrong came too late
        if not isinstance(event, dict):
            raise EngineFailed("The engine sent an event that is not a JSON object.")
        if event.get("error") or event.get("object") == "error":
            raise wire.error_in(event)
        if "choices" not in event and not self._finished and not self._unfinished:
            return  # no part of an answer, perhaps of another program: the client never sees it
        self._note_choices(event.get("choices"))
        shown = wire.shown_event(data, event, self._usage, added_usage=self._request.added_usage)
        if shown is not None:
            self._sink(shown)

    def _note_choices(self, choices: Any) -> None:
        """Note which choices there are, and which are finished.

        Raises:
            EngineFailed: The engine gave up.
        """
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                raise EngineFailed("The engine sent an event of another shape.")
            index, reason = choice.get("index"), choice.get("finish_reason")
            index = index if isinstance(index, int) else 0
            if isinstance(reason, str) and reason in _GIVEN_UP:
                raise EngineFailed(f"The engine gave the answer up: finish_reason {reason!r}.")
            if reason:
                self._finished.add(index)
                self._unfinished.discard(index)
            elif index not in self._finished:
                self._unfinished.add(index)

    # ------------------------------------------------------------------ one body

    def _add_to_body(self, body: list[bytes], data: bytes) -> None:
        self._length += len(data)
        if self._length > LONGEST_BYTES:
            raise EngineFailed(f"The engine's answer is longer than {LONGEST_BYTES} bytes.")
        body.append(data)

    def _whole(self, body: bytes) -> EngineResponse:
        body = body.removeprefix(b"\xef\xbb\xbf")
        answer = wire.parse(body)
        if not isinstance(answer, dict):
            raise EngineFailed("The engine's answer is not a JSON object, or incomplete.")
        if answer.get("error") or answer.get("object") == "error":
            raise wire.error_in(answer)
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices:
            raise EngineFailed("The engine's answer has no `choices`.")
        self._note_choices(choices)
        self._usage.read(answer)
        body = wire.without_nan(body)
        if not self._request.stream:
            return self._response(body)
        for event in wire.as_events(answer, with_usage=not self._request.added_usage):
            self._sink(event)
        return self._response()

    def _response(self, body: bytes | None = None) -> EngineResponse:
        usage = self._usage
        return EngineResponse(
            body=body,
            prompt_tokens=usage.prompt_tokens,
            output_tokens=usage.output_tokens,
            usage_details=usage.details_json,
        )
