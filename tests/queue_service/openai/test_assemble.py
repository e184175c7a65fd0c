"""Assembling the chunks of a stream into one response."""

from __future__ import annotations

import json
from typing import Any

import openai.types
from openai.types.chat import ChatCompletion

from lengthwise_queue.openai.assemble import assemble, last_attempt
from lengthwise_queue.openai.chat import CHAT
from lengthwise_queue.openai.completions import COMPLETIONS
from lengthwise_store.jobs import EntryKind, OutputEntry

HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "m"}


def chunk(delta: dict[str, Any], index: int = 0, **choice: Any) -> bytes:
    return json.dumps(HEAD | {"choices": [{"index": index, "delta": delta} | choice]}).encode()


def chat(*chunks: bytes, **tokens: Any) -> ChatCompletion:
    """The assembled response, read by the official client's own type."""
    found = assemble(CHAT, chunks, **tokens)
    assert found is not None
    return ChatCompletion.model_validate(found, strict=True)


def test_no_chunks_are_no_response() -> None:
    assert assemble(CHAT, []) is None


def test_a_complete_response_is_returned_unchanged() -> None:
    whole = {"object": "chat.completion", "choices": [{"message": {}}], "timings": {"a": 1}}
    assert assemble(CHAT, [json.dumps(whole).encode()]) == whole


def test_texts_are_joined_by_field() -> None:
    found = chat(
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"reasoning_content": "Let "}),
        chunk({"reasoning_content": "me see"}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}, finish_reason=None),
        chunk({}, finish_reason="stop", stop_reason=None),
    )
    assert (found.id, found.object, found.created) == ("c1", "chat.completion", 5)
    [choice] = found.choices
    assert choice.message.content == "Hello"
    assert choice.message.model_dump()["reasoning_content"] == "Let me see"
    assert choice.message.refusal is None
    assert choice.finish_reason == "stop"


def test_a_refusal_is_joined() -> None:
    found = chat(chunk({"refusal": "I "}), chunk({"refusal": "won't"}, finish_reason="stop"))
    assert (found.choices[0].message.refusal, found.choices[0].message.content) == ("I won't", None)


def test_choices_are_in_the_order_of_their_indexes() -> None:
    found = chat(
        chunk({"content": "b"}, index=1),
        chunk({"content": "a"}, index=0),
        chunk({"content": "B"}, index=1, finish_reason="stop"),
        chunk({"content": "A"}, index=0, finish_reason="length"),
    )
    assert [c.message.content for c in found.choices] == ["aA", "bB"]
    assert [c.finish_reason for c in found.choices] == ["length", "stop"]


def test_tool_calls_are_joined_by_index() -> None:
    def call(index: int, **fields: Any) -> dict[str, Any]:
        return {"tool_calls": [{"index": index, **fields}]}

    found = chat(
        chunk(call(0, id="x", type="function", function={"name": "f", "arguments": ""})),
        chunk(call(1, id="y", type="function", function={"name": "g", "arguments": "{"})),
        chunk(call(0, function={"arguments": '{"a"'})),
        chunk(call(1, function={"arguments": "}"})),
        chunk(call(0, function={"arguments": ": 1}"}), finish_reason="tool_calls"),
    )
    calls = found.choices[0].message.tool_calls
    assert calls is not None
    assert [c.model_dump(exclude_none=True) for c in calls] == [
        {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "y", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_logprobs_are_appended() -> None:
    def probs(token: str) -> dict[str, Any]:
        one = {"token": token, "logprob": -1.0, "bytes": None, "top_logprobs": []}
        return {"content": [one], "refusal": None}

    found = chat(
        chunk({"content": "a"}, logprobs=probs("a")),
        chunk({"content": "b"}, logprobs=probs("b"), finish_reason="stop"),
        chunk({}, logprobs=None),
    )
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert [t.token for t in logprobs.content or []] == ["a", "b"]


def test_completions_are_joined_with_their_logprobs() -> None:
    def part(text: str, finish: str | None) -> bytes:
        logprobs = {
            "tokens": [text],
            "token_logprobs": [-1.0],
            "top_logprobs": None,
            "text_offset": [0],
        }
        choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return json.dumps(HEAD | {"object": "text_completion", "choices": [choice]}).encode()

    found = assemble(
        COMPLETIONS, [part("a", None), part("b", "stop")], prompt_tokens=2, output_tokens=2
    )
    read = openai.types.Completion.model_validate(found, strict=True)
    assert (read.choices[0].text, read.choices[0].finish_reason) == ("ab", "stop")
    assert read.choices[0].logprobs is not None
    assert read.choices[0].logprobs.tokens == ["a", "b"]
    assert read.usage is not None
    assert read.usage.total_tokens == 4


def test_usage_is_that_of_the_engine_or_else_of_the_record() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    last = json.dumps(HEAD | {"choices": [], "usage": usage}).encode()
    words = chunk({"content": "a"}, finish_reason="stop")
    from_engine = chat(words, last, prompt_tokens=7, output_tokens=7).usage
    from_record = chat(words, prompt_tokens=7, output_tokens=8).usage
    assert from_engine is not None
    assert from_engine.total_tokens == 3
    assert from_record is not None
    assert from_record.total_tokens == 15
    assert chat(words).usage is None


def test_damaged_chunks_are_left_out() -> None:
    found = chat(
        chunk({"content": "a"}), b"{", b"[]", b"\xff", chunk({"content": "b"}, finish_reason="stop")
    )
    assert found.choices[0].message.content == "ab"


def test_only_the_last_attempt_counts() -> None:
    def entry(kind: EntryKind, data: bytes) -> OutputEntry:
        return OutputEntry(id="1-0", kind=kind, attempt=1, data=data)

    entries = [
        entry(EntryKind.CHUNK, b"1"),
        entry(EntryKind.ATTEMPT, b""),
        entry(EntryKind.CHUNK, b"2"),
        entry(EntryKind.CHUNK, b"3"),
        entry(EntryKind.END, b"{}"),
    ]
    assert last_attempt(entries) == [b"2", b"3"]
