"""A job's output as the events of OpenAI's Responses API. Pure.

The events follow from the job's stream alone, so every replica tells the same, under the same
sequence numbers; resuming behind one of them is telling all again and leaving out the first.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from lengthwise_contract.states import JobState
from lengthwise_queue.errors import AttemptRestarted
from lengthwise_queue.openai.responses import response_object
from lengthwise_queue.openai.responses.response_object import Answer
from lengthwise_queue.openai.sse import Splicer
from lengthwise_store.jobs import EntryKind, OutputEntry
from lengthwise_store.output_reader import read_end
from lengthwise_store.responses.record import ResponseRecord

JsonObject = dict[str, Any]


class EventBuilder:
    """Tells one response from its start. `begin`, then `feed` each entry of its job's output."""

    def __init__(self, record: ResponseRecord) -> None:
        self.ended = False
        self._record = record
        self._answer = Answer()
        self._splicer = Splicer("/v1/chat/completions", record.job_id)
        self._next = 0
        self._begun = False
        self._open: list[int | None] = []  #: Items in order: None is the message, else a call.
        self._places: dict[int, int] = {}  #: The engine's index of a call -> its place.

    def begin(self) -> list[JsonObject]:
        """The events that come first."""
        return [self._whole("response.created", "queued"), self._whole("response.queued", "queued")]

    def feed(self, entry: OutputEntry) -> list[JsonObject]:
        """The events that an entry brings."""
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
            self.ended = True
            return [self._event("error", code=exc.code, message=exc.message, param=None)]

    def _chunk(self, data: bytes | None) -> list[JsonObject]:
        events: list[JsonObject] = []
        if not self._begun:
            self._begun = True
            events.append(self._whole("response.in_progress", "in_progress"))
        chunk = _parse(data)
        if chunk.get("usage") is not None:
            self._answer.usage = chunk["usage"]
        for choice in chunk.get("choices") or []:
            if choice.get("index", 0) != 0:
                continue
            # A whole message, from an engine that does not stream, is one large delta.
            delta = choice.get("delta") or choice.get("message") or {}
            if delta.get("content"):
                events += self._said(delta["content"])
            for place, call in enumerate(delta.get("tool_calls") or []):
                events += self._called(call.get("index", place), call)
            if choice.get("finish_reason") is not None:
                self._answer.finish_reason = choice["finish_reason"]
        return events

    def _said(self, text: str) -> list[JsonObject]:
        events: list[JsonObject] = []
        answer, record = self._answer, self._record
        if None not in self._open:
            self._open.append(None)
            item = response_object.message_item(record, None, "in_progress")
            part = response_object.text_part("")
            events.append(self._of_item("response.output_item.added", None, item=item))
            events.append(self._of_part("response.content_part.added", part=part))
        answer.text = (answer.text or "") + text
        events.append(self._of_part("response.output_text.delta", delta=text, logprobs=[]))
        return events

    def _called(self, index: int, call: JsonObject) -> list[JsonObject]:
        events: list[JsonObject] = []
        function, calls = call.get("function") or {}, self._answer.calls
        place = self._places.setdefault(index, len(calls))
        if place == len(calls):
            self._open.append(place)
            known = {
                "id": call.get("id") or "",
                "name": function.get("name") or "",
                "arguments": "",
            }
            calls.append(known)
            item = response_object.call_item(self._record, place, known, "in_progress")
            events.append(self._of_item("response.output_item.added", place, item=item))
        more = function.get("arguments")
        if more:
            calls[place]["arguments"] += more
            events.append(
                self._of_call("response.function_call_arguments.delta", place, delta=more)
            )
        return events

    def _end(self, entry: OutputEntry) -> list[JsonObject]:
        told = read_end(entry)
        if told.state is JobState.SUCCEEDED:
            self._splicer.end()
        self.ended = True
        problem = told.problem(self._record.job_id)
        status = response_object.ended_well(self._answer)
        if told.state is JobState.CANCELLED:
            status = "cancelled"
        elif problem is not None:
            status = "failed"
        events: list[JsonObject] = []
        if status in ("completed", "incomplete"):
            if not self._begun:
                events.append(self._whole("response.in_progress", "in_progress"))
            if self._answer.usage is None and told.prompt_tokens is not None:
                self._answer.usage = {
                    "prompt_tokens": told.prompt_tokens,
                    "completion_tokens": told.output_tokens,
                }
            for item in self._open:
                events += self._close_item(item, status)
        completed_ms = float(entry.id.partition("-")[0])
        last = response_object.view(
            self._record, status, self._answer, problem=problem, completed_ms=completed_ms
        )
        return [*events, self._event(f"response.{status}", response=last)]

    def _close_item(self, place: int | None, status: str) -> list[JsonObject]:
        answer, record = self._answer, self._record
        if place is None:
            text = answer.text or ""
            item = response_object.message_item(record, text, status)
            part = response_object.text_part(text)
            return [
                self._of_part("response.output_text.done", text=text, logprobs=[]),
                self._of_part("response.content_part.done", part=part),
                self._of_item("response.output_item.done", place, item=item),
            ]
        call = answer.calls[place]
        item = response_object.call_item(record, place, call, status)
        arguments = call["arguments"]
        return [
            self._of_call(
                "response.function_call_arguments.done",
                place,
                arguments=arguments,
                name=call["name"],
            ),
            self._of_item("response.output_item.done", place, item=item),
        ]

    def _event(self, kind: str, **fields: Any) -> JsonObject:
        number, self._next = self._next, self._next + 1
        return {"type": kind, "sequence_number": number} | fields

    def _whole(self, kind: str, status: str) -> JsonObject:
        return self._event(kind, response=response_object.view(self._record, status, Answer()))

    def _of_item(self, kind: str, place: int | None, **fields: Any) -> JsonObject:
        return self._event(kind, output_index=self._open.index(place), **fields)

    def _of_part(self, kind: str, **fields: Any) -> JsonObject:
        item_id = response_object.message_item(self._record, None, "")["id"]
        return self._of_item(kind, None, item_id=item_id, content_index=0, **fields)

    def _of_call(self, kind: str, place: int, **fields: Any) -> JsonObject:
        call = self._answer.calls[place]
        item_id = response_object.call_item(self._record, place, call, "")["id"]
        return self._of_item(kind, place, item_id=item_id, **fields)


def _parse(data: bytes | None) -> JsonObject:
    """A chunk; nothing where it was told already, or cannot be read."""
    if data is None:
        return {}
    try:
        value = from_json(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
