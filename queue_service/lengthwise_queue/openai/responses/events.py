"""Builds the events of OpenAI's Responses API from a job's output. Pure.

The events follow from the job's output alone, so every replica builds the same ones with the same
sequence numbers. To resume after an event, a replica builds all events again and leaves out the
first ones.
"""

from __future__ import annotations

from typing import Any

from lengthwise_contract.states import JobState
from lengthwise_queue.errors import AttemptRestarted
from lengthwise_queue.openai.assemble import usage_of
from lengthwise_queue.openai.chat import CHAT
from lengthwise_queue.openai.chunks import parse_chunk
from lengthwise_queue.openai.endpoint import JsonObject
from lengthwise_queue.openai.responses.response_object import (
    AssembledMessage,
    call_item,
    message_item,
    reasoning_in,
    reasoning_item,
    response_object,
    text_part,
)
from lengthwise_queue.openai.splicer import Splicer
from lengthwise_store.errors import LengthwiseError
from lengthwise_store.jobs import EntryKind, OutputEntry
from lengthwise_store.output_reader import read_end
from lengthwise_store.responses.record import ResponseRecord

#: The places of items: of the message, of the reasoning, or of a call in the list of calls.
_MESSAGE, _REASONING = -1, -2
_Place = int


class EventBuilder:
    """Builds the events of one response: `begin`, then `feed` with each entry of the output."""

    def __init__(self, record: ResponseRecord) -> None:
        self.ended = False
        self.restarted = False  #: A new attempt differs from what the events so far contain.
        self._record = record
        self._message = AssembledMessage()
        self._splicer = Splicer(CHAT, record.job_id)
        self._next = 0
        self._in_progress = False
        self._open: list[_Place] = []  #: The items in order.
        self._places: dict[int, int] = {}  #: The engine's index of a call -> its place.

    def begin(self) -> list[JsonObject]:
        """Return the events that precede all output."""
        return [
            self._of_response("response.created", "queued"),
            self._of_response("response.queued", "queued"),
        ]

    def feed(self, entry: OutputEntry) -> list[JsonObject]:
        """Return the events that follow from an entry."""
        if self.ended:
            return []
        try:
            match entry.kind:
                case EntryKind.CHUNK:
                    return self._chunk(self._splicer.feed(entry.data))
                case EntryKind.ATTEMPT:
                    self._splicer.new_attempt()
                    return []
                case EntryKind.END:
                    return self._end(entry)
        except AttemptRestarted as exc:
            self.ended = self.restarted = True
            return [self._event("error", code=exc.code, message=exc.message, param=None)]

    def interrupted(self, error: LengthwiseError) -> JsonObject:
        """Return the event for an answer that cannot be read here.

        It has the number of the event before it, so that no number is missing for a reader who
        resumes.
        """
        return {
            "type": "error",
            "sequence_number": max(self._next - 1, 0),
            "code": error.code,
            "message": error.message,
            "param": None,
        }

    def _chunk(self, data: bytes | None) -> list[JsonObject]:
        events: list[JsonObject] = []
        if not self._in_progress:
            self._in_progress = True
            events.append(self._of_response("response.in_progress", "in_progress"))
        # None: the client has it already. A chunk that cannot be read is passed over.
        chunk = (None if data is None else parse_chunk(data)) or {}
        if chunk.get("usage") is not None:
            self._message.usage = chunk["usage"]
        for choice in chunk.get("choices") or []:
            if choice.get("index", 0) != 0:
                continue
            # An engine that does not stream sends a whole message: one large delta.
            delta = choice.get("delta") or choice.get("message") or {}
            if thoughts := reasoning_in(delta):
                events += self._reasoning_delta(thoughts)
            if delta.get("content"):
                events += self._text_delta(delta["content"])
            for place, call in enumerate(delta.get("tool_calls") or []):
                events += self._call_delta(call.get("index", place), call)
            if choice.get("finish_reason") is not None:
                self._message.finish_reason = choice["finish_reason"]
        return events

    def _reasoning_delta(self, text: str) -> list[JsonObject]:
        events: list[JsonObject] = []
        if _REASONING not in self._open:
            self._open.append(_REASONING)
            item = reasoning_item(self._record, None, "in_progress")
            events.append(self._of_item("response.output_item.added", _REASONING, item=item))
        self._message.reasoning = (self._message.reasoning or "") + text
        events.append(self._of_reasoning("response.reasoning_text.delta", delta=text))
        return events

    def _text_delta(self, text: str) -> list[JsonObject]:
        events: list[JsonObject] = []
        if _MESSAGE not in self._open:
            self._open.append(_MESSAGE)
            item = message_item(self._record, None, "in_progress")
            events.append(self._of_item("response.output_item.added", _MESSAGE, item=item))
            events.append(self._of_part("response.content_part.added", part=text_part("")))
        self._message.text = (self._message.text or "") + text
        events.append(self._of_part("response.output_text.delta", delta=text, logprobs=[]))
        return events

    def _call_delta(self, index: int, call: JsonObject) -> list[JsonObject]:
        events: list[JsonObject] = []
        function, calls = call.get("function") or {}, self._message.calls
        place = self._places.setdefault(index, len(calls))
        if place == len(calls):
            self._open.append(place)
            known = {
                "id": call.get("id") or "",
                "name": function.get("name") or "",
                "arguments": "",
            }
            calls.append(known)
            item = call_item(self._record, place, known, "in_progress")
            events.append(self._of_item("response.output_item.added", place, item=item))
        more = function.get("arguments")
        if more:
            calls[place]["arguments"] += more
            events.append(
                self._of_call("response.function_call_arguments.delta", place, delta=more)
            )
        return events

    def _end(self, entry: OutputEntry) -> list[JsonObject]:
        end = read_end(entry)
        if end.state is JobState.SUCCEEDED:
            self._splicer.end()
        self.ended = True
        problem = end.problem(self._record.job_id)
        status = self._message.final_status()
        if end.state is JobState.CANCELLED:
            status = "cancelled"
        elif problem is not None:
            status = "failed"
        events: list[JsonObject] = []
        if status in ("completed", "incomplete"):
            if not self._in_progress:
                events.append(self._of_response("response.in_progress", "in_progress"))
            if self._message.usage is None:
                self._message.usage = usage_of(
                    end.prompt_tokens, end.output_tokens, end.usage_details
                )
            for place in self._open:
                events += self._close_item(place, status)
        completed_ms = float(entry.id.partition("-")[0])
        last = response_object(
            self._record, status, self._message, problem=problem, completed_ms=completed_ms
        )
        return [*events, self._event(f"response.{status}", response=last)]

    def _close_item(self, place: _Place, status: str) -> list[JsonObject]:
        if place == _REASONING:
            thoughts = self._message.reasoning or ""
            item = reasoning_item(self._record, thoughts, status)
            return [
                self._of_reasoning("response.reasoning_text.done", text=thoughts),
                self._of_item("response.output_item.done", place, item=item),
            ]
        if place == _MESSAGE:
            text = self._message.text or ""
            item = message_item(self._record, text, status)
            return [
                self._of_part("response.output_text.done", text=text, logprobs=[]),
                self._of_part("response.content_part.done", part=text_part(text)),
                self._of_item("response.output_item.done", place, item=item),
            ]
        call = self._message.calls[place]
        item = call_item(self._record, place, call, status)
        return [
            self._of_call(
                "response.function_call_arguments.done",
                place,
                arguments=call["arguments"],
                name=call["name"],
            ),
            self._of_item("response.output_item.done", place, item=item),
        ]

    def _event(self, kind: str, **fields: Any) -> JsonObject:
        number, self._next = self._next, self._next + 1
        return {"type": kind, "sequence_number": number} | fields

    def _of_response(self, kind: str, status: str) -> JsonObject:
        return self._event(kind, response=response_object(self._record, status, AssembledMessage()))

    def _of_item(self, kind: str, place: _Place, **fields: Any) -> JsonObject:
        return self._event(kind, output_index=self._open.index(place), **fields)

    def _of_part(self, kind: str, **fields: Any) -> JsonObject:
        item_id = message_item(self._record, None, "")["id"]
        return self._of_item(kind, _MESSAGE, item_id=item_id, content_index=0, **fields)

    def _of_reasoning(self, kind: str, **fields: Any) -> JsonObject:
        item_id = reasoning_item(self._record, None, "")["id"]
        return self._of_item(kind, _REASONING, item_id=item_id, content_index=0, **fields)

    def _of_call(self, kind: str, place: int, **fields: Any) -> JsonObject:
        call = self._message.calls[place]
        item_id = call_item(self._record, place, call, "")["id"]
        return self._of_item(kind, place, item_id=item_id, **fields)
