"""The parser of server-sent events: what ends an event, and what does not."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from lengthwise_lab.server_sent_events import read_events


def events_of(content: bytes, *, size: int = 1000, kind: str = "text/event-stream") -> list[str]:
    """Parse a stream that arrives in chunks of `size` bytes. Return the data of its events."""

    class Chunks(httpx.AsyncByteStream):
        async def __aiter__(self):  # type: ignore[no-untyped-def]
            for start in range(0, len(content), size):
                yield content[start : start + size]

    async def scenario() -> list[str]:
        response = httpx.Response(200, headers={"content-type": kind}, stream=Chunks())
        return [event.data async for event in read_events(response)]

    return asyncio.run(scenario())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_found_however_the_bytes_are_cut(size: int) -> None:
    stream = (
        b": ping\n\n"
        b'data: {"a":1}\n\n'
        b'data:{"b":2}\r\n\r\n'
        b'event: x\nid: 7\ndata: {"c":\ndata: 3}\n\n'
        b": ping\n\n"
        b"data: [DONE]\n\n"
    )
    assert events_of(stream, size=size) == ['{"a":1}', '{"b":2}', '{"c":\n3}', "[DONE]"]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\u0085", "\v", "\f"])
def test_a_unicode_line_separator_in_an_answer_does_not_end_a_line(character: str) -> None:
    # httpx's aiter_lines ends a line at each of these, as str.splitlines does. With it, an answer
    # that contained one was cut in the middle of its JSON.
    data = json.dumps({"content": f"a{character}b"}, ensure_ascii=False)
    assert events_of(f"data: {data}\n\n".encode()) == [data]


@pytest.mark.parametrize("end", ["", "\n"], ids=["no line end", "no blank line"])
def test_an_event_that_is_cut_off_does_not_count(end: str) -> None:
    assert events_of(f"data: a\n\ndata: [DONE]{end}".encode()) == ["a"]


def test_a_response_that_is_not_an_event_stream_is_a_transport_error() -> None:
    with pytest.raises(httpx.TransportError, match="text/event-stream"):
        events_of(b'{"a": 1}', kind="application/json")
