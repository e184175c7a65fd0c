"""The OpenAI wire format: requests to an engine, its events and its errors."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from lengthwise_worker.engines import wire
from lengthwise_worker.engines.event_splitter import EventSplitter
from lengthwise_worker.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineRefused,
    EngineUnavailable,
)


def test_a_body_without_added_keys_keeps_its_bytes() -> None:
    body = b'{ "model":"m", "temperature":1.00, "seed":12345678901234567890 }'
    assert wire.engine_request(body).body == body


def test_added_keys_do_not_change_the_bytes_of_the_client() -> None:
    body = b'{"stream":true,"x":"\\ud83d","t":1.00} '
    got = wire.engine_request(body, {"priority": 3}).body
    assert got.startswith(b'{"stream":true,"x":"\\ud83d","t":1.00,')
    want = json.loads(body) | {"priority": 3, "stream_options": {"include_usage": True}}
    assert json.loads(got) == want


def test_a_priority_of_the_client_is_replaced() -> None:
    got = wire.engine_request(b'{"priority": -9, "a": 1}', {"priority": 3}).body
    assert got.count(b"priority") == 1
    assert json.loads(got) == {"priority": 3, "a": 1}


def test_a_key_can_be_added_to_an_empty_object() -> None:
    assert json.loads(wire.engine_request(b"{}", {"priority": 3}).body) == {"priority": 3}


@pytest.mark.parametrize(
    ("options", "want", "added"),
    [
        ({"include_usage": True}, {"include_usage": True}, False),
        ({"include_usage": False}, {"include_usage": True}, True),
        ({"other": 1}, {"other": 1, "include_usage": True}, True),
        ({"continuous_usage_stats": True}, {"include_usage": True}, True),
        (None, {"include_usage": True}, True),
    ],
    ids=["asked", "declined", "other", "continuous", "null"],
)
def test_usage_is_requested_if_the_client_did_not_request_it(
    options: Any, want: dict[str, Any], added: bool
) -> None:
    body = json.dumps({"stream": True, "stream_options": options}).encode()
    got = wire.engine_request(body)
    assert json.loads(got.body)["stream_options"] == want
    assert (got.stream, got.added_usage) == (True, added)


def shown(data: bytes, usage: wire.Usage, *, added_usage: bool) -> bytes | None:
    return wire.shown_event(data, json.loads(data), usage, added_usage=added_usage)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_found_however_the_bytes_are_cut(size: int) -> None:
    stream = (
        b": ping\n\n"
        b'data: {"a":1}\n\n'
        b'data:{"b":2}\r\n\r\n'
        b'event: x\nid: 7\ndata: {"c":\ndata: 3}\n\n'
        b"data: [DONE]\n\n"
    )
    splitter, got = EventSplitter(), []
    for start in range(0, len(stream), size):
        got += splitter.feed(stream[start : start + size])
    assert got == [b'{"a":1}', b'{"b":2}', b'{"c":\n3}', b"[DONE]"]


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"delta":{"content":"x"}}],"usage":null}',
        b'{"choices":[{"delta":{"content":"x"}}], "usage": null}',
        b'{"usage":null,"choices":[{"delta":{"content":"x"}}]}',
    ],
    ids=["vllm", "spaced", "first"],
)
def test_the_null_usage_that_the_worker_caused_is_removed(data: bytes) -> None:
    got = shown(data, wire.Usage(), added_usage=True)
    assert got is not None
    assert b"usage" not in got
    assert json.loads(got) == {"choices": [{"delta": {"content": "x"}}]}


def test_text_that_looks_like_usage_or_an_error_is_not_changed() -> None:
    text = ',"usage":null and "error": {"code": 400} and "usage": {}'
    data = json.dumps({"choices": [{"delta": {"content": text}}], "usage": None}).encode()
    got = shown(data, wire.Usage(), added_usage=True)
    assert got is not None
    assert json.loads(got)["choices"][0]["delta"]["content"] == text


def test_a_piece_whose_whole_text_is_error_is_not_an_error() -> None:
    data = b'{"choices":[{"delta":{"content":"error"}}]}'
    assert shown(data, wire.Usage(), added_usage=True) == data


def test_the_usage_event_that_the_worker_caused_is_not_sent_to_the_client() -> None:
    usage = wire.Usage()
    data = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'
    assert shown(data, usage, added_usage=True) is None
    assert (usage.prompt_tokens, usage.output_tokens) == (3, 4)


@pytest.mark.parametrize("added", [True, False])
def test_usage_in_an_event_with_text_is_read_and_the_text_is_kept(added: bool) -> None:
    usage = wire.Usage()
    data = b'{"choices":[{"text":"x"}],"usage":{"prompt_tokens":3,"completion_tokens":4}}'
    assert shown(data, usage, added_usage=added) == data
    assert usage.output_tokens == 4


@pytest.mark.parametrize(
    ("event", "want"),
    [
        ({"error": {"message": "m", "code": 400}}, EngineRefused),
        ({"error": {"message": "m", "code": 500}}, EngineFailed),
        ({"error": {"message": "m", "code": "internal"}}, EngineFailed),
        ({"error": {"message": "m", "code": 503}}, EngineBusy),
        ({"error": {"message": "m", "code": "429"}}, EngineBusy),
        ({"error": {"message": "m", "type": "invalid_request_error"}}, EngineRefused),
        ({"error": {"message": "m", "code": "context_length_exceeded"}}, EngineRefused),
        ({"error": {"message": "m", "code": "rate_limit_exceeded"}}, EngineBusy),
        ({"error": "just text"}, EngineFailed),
        ({"object": "error", "message": "m", "code": 400, "type": "error"}, EngineRefused),
    ],
    ids=["400", "500", "word", "503", "digits", "kind", "too long", "rate", "text", "old vllm"],
)
def test_an_error_event_is_translated_by_its_code(
    event: dict[str, Any], want: type[EngineError]
) -> None:
    with pytest.raises(want):
        raise wire.error_in(event)


@pytest.mark.parametrize(
    ("status", "want"),
    [
        (400, EngineRefused),
        (404, EngineRefused),
        (413, EngineRefused),
        (422, EngineRefused),
        (401, EngineUnavailable),
        (403, EngineUnavailable),
        (408, EngineFailed),
        (429, EngineBusy),
        (503, EngineBusy),
        (500, EngineFailed),
        (502, EngineFailed),
        (504, EngineFailed),
        (302, EngineFailed),
    ],
)
def test_a_status_is_translated_to_an_error(status: int, want: type[EngineError]) -> None:
    body = b'{"error":{"message":"because"}}'
    error = wire.error_of(status, body)
    assert type(error) is want
    assert error.status == status
    assert error.body == {"error": {"message": "because"}}
    assert "because" in error.message


def test_a_reason_in_plain_text_is_kept() -> None:
    error = wire.error_of(413, b"Payload Too Large: at most 1 MB\n")
    assert (error.message, error.body) == ("Payload Too Large: at most 1 MB", None)


def test_an_error_page_is_dropped() -> None:
    error = wire.error_of(502, b"<html>bad gateway</html>")
    assert error.body is None
    assert "502" in error.message


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("0.5", 0.5, 0.5),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
    ],
    ids=["seconds", "fraction", "past"],
)
def test_retry_after_is_read(header: str, low: float, high: float) -> None:
    error = wire.error_of(429, b"", header)
    assert isinstance(error, EngineBusy)
    assert error.retry_after_s is not None
    assert low <= error.retry_after_s <= high


def test_retry_after_may_be_a_date() -> None:
    # Made here, because parameters are made at collection, minutes earlier.
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    error = wire.error_of(429, b"", at)
    assert isinstance(error, EngineBusy)
    assert error.retry_after_s is not None
    assert 1 <= error.retry_after_s <= 90


@pytest.mark.parametrize("header", [None, "soon"])
def test_retry_after_may_be_missing_or_unreadable(header: str | None) -> None:
    error = wire.error_of(429, b"", header)
    assert isinstance(error, EngineBusy)
    assert error.retry_after_s is None


def test_a_number_that_is_no_double_does_not_come_back_beside_a_nan() -> None:
    # `1e400` is JSON, but it was read as infinity when a NaN beside it had to go.
    got = wire.without_nan(b'{"a":[1e400,-1e400,NaN,Infinity,1.5,7]}')
    assert got == b'{"a":[null,null,null,null,1.5,7]}'
