"""Whatever an engine sends, through the real client over real HTTP: held to a small reference.

A stream is made of valid parts, damaged in ways that engines and proxies damage streams, cut
anywhere, and ended in any way. The reference reads the whole of it at once, line by line, as the
standard of server-sent events has it.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tests.scripted_engine import Ending, Script, ScriptedEngine, as_json

from lengthwise_store.jobs import Claim, Lease
from lengthwise_worker.engines.base import EngineResponse
from lengthwise_worker.engines.openai_http import OpenAIEngine
from lengthwise_worker.engines.vllm import VllmEngine
from lengthwise_worker.errors import EngineBusy, EngineError, EngineFailed, EngineRefused

CHAT = "/v1/chat/completions"


def claim(endpoint: Any = CHAT, **fields: Any) -> Claim:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True} | fields
    return Claim(
        lease=Lease(job_id="j", nonce="n", attempt=1),
        endpoint=endpoint,
        body=json.dumps(body).encode(),
        due_ms=1.8e12,
        predicted_tokens=5.0,
        deadline_ms=2e12,
    )


@dataclass
class Got:
    """What a worker gets of an answer."""

    pieces: list[bytes]
    response: EngineResponse | None = None
    error: EngineError | None = None


async def ask(engine: OpenAIEngine, asked: Claim) -> Got:
    got = Got(pieces=[])
    try:
        async with asyncio.timeout(20):
            got.response = await engine.answer(asked, got.pieces.append)
    except EngineError as exc:
        got.error = exc
    return got


def answer_to(script: Script, asked: Claim | None = None, *, timeout_s: float = 600.0) -> Got:
    async def body() -> Got:
        async with ScriptedEngine(script).listening() as server:
            engine = OpenAIEngine(server.url, timeout_s=timeout_s, model="m")
            try:
                return await ask(engine, asked or claim())
            finally:
                await engine.aclose()

    return asyncio.run(body())


def sse(*events: Any) -> bytes:
    texts = [e if isinstance(e, str) else json.dumps(e) for e in events]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def chunk(text: str = "y", *, finish: str | None = None, index: int = 0, **more: Any) -> Any:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c1", "choices": [choice]} | more


USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 2,
    "total_tokens": 7,
    "completion_tokens_details": {"reasoning_tokens": 1},
    "prompt_tokens_details": {"cached_tokens": 4},
}
WHOLE = {
    "id": "c1",
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "yes", "reasoning_content": "hm"},
        }
    ],
    "usage": USAGE,
}


# ---------------------------------------------------------------------- complete answers


@pytest.mark.parametrize("ending", [e for e in Ending if e is not Ending.OPEN])
@pytest.mark.parametrize(
    "stream",
    [
        sse(chunk(), "[DONE]"),
        sse(chunk(), chunk(finish="stop")),
        sse(chunk(), chunk(finish="stop"), {"choices": [], "usage": USAGE}, "[DONE]"),
        sse(chunk(), chunk(finish="stop")) + b"data: [DO",
        sse(chunk(), chunk(finish="stop")) + b'data: {"error": {"message": "late"}}\n\n',
        sse(chunk(), chunk(finish="stop")) + b"<html>proxy error</html>",
        sse(chunk()) + b"data: [DONE]",
        sse(chunk(), chunk(finish="tool_calls")).replace(b"\n", b"\r\n"),
        sse(chunk(), chunk(finish="length")).replace(b"\n", b"\r"),
        b"\xef\xbb\xbf" + sse(chunk(), "[DONE]"),
    ],
    ids=[
        "done",
        "finished",
        "usage",
        "cut done",
        "late error",
        "late page",
        "no blank line",
        "crlf",
        "cr",
        "bom",
    ],
)
def test_a_complete_answer_counts_however_it_ends(stream: bytes, ending: Ending) -> None:
    got = answer_to(Script(pieces=[stream], ending=ending))
    assert got.error is None
    assert json.loads(got.pieces[0])["choices"][0]["delta"] == {"content": "y"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pieces", "asked"),
    [
        ([sse(chunk(), chunk(finish="stop"))], claim()),
        ([sse(chunk()), b"data: [DONE]\n"], claim()),
        ([json.dumps(WHOLE).encode()], claim(stream=False)),
    ],
    ids=["finished", "done", "whole"],
)
def test_a_complete_answer_does_not_wait_for_a_connection_that_stays_open(
    pieces: list[bytes], asked: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lengthwise_worker.engines.openai_http._LAST_WORDS_S", 0.2)
    got = answer_to(Script(pieces=pieces, ending=Ending.OPEN), asked)
    assert got.error is None


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/json", None, "Text/Event-Stream"]
)
def test_what_an_engine_calls_its_stream_does_not_matter(content_type: str | None) -> None:
    script = Script(pieces=[b": ping\n\n", sse(chunk(), "[DONE]")], content_type=content_type)
    got = answer_to(script)
    assert (got.error, len(got.pieces)) == (None, 1)


def test_all_that_an_answer_carries_comes_through() -> None:
    thought = {"index": 0, "delta": {"reasoning_content": "hm", "reasoning": "hm"}}
    stream = sse({"choices": [thought]}, chunk(finish="stop"), {"choices": [], "usage": USAGE})
    got = answer_to(Script(pieces=[stream]))
    assert got.response is not None
    assert (got.response.prompt_tokens, got.response.output_tokens) == (5, 2)
    want = {name: USAGE[name] for name in ("completion_tokens_details", "prompt_tokens_details")}
    assert json.loads(got.response.usage_details or "") == want
    assert json.loads(got.pieces[0])["choices"][0] == thought
    whole = answer_to(as_json(WHOLE), claim(stream=False))
    assert whole.response is not None
    assert json.loads(whole.response.body or b"") == WHOLE
    assert json.loads(whole.response.usage_details or "") == want


@pytest.mark.parametrize("wants_usage", [True, False])
def test_an_answer_that_comes_whole_to_a_request_for_a_stream_becomes_events(
    wants_usage: bool,
) -> None:
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    got = answer_to(as_json(WHOLE), claim(**options))
    events = [json.loads(piece) for piece in got.pieces]
    [choice] = events[0]["choices"]
    assert choice["delta"] == WHOLE["choices"][0]["message"]  # type: ignore[index]
    assert choice["finish_reason"] == "stop"
    assert events[0]["object"] == "chat.completion.chunk"
    assert [e.get("usage") for e in events] == [None, USAGE][: 1 + wants_usage]
    assert got.response is not None
    assert got.response.body is None


def test_numbers_that_json_does_not_have_become_null() -> None:
    whole = json.dumps(WHOLE)[:-1].encode() + b',"p":NaN,"q":[-Infinity]}'
    got = answer_to(Script(pieces=[whole]), claim(stream=False))
    assert got.response is not None
    body = json.loads(got.response.body or b"", parse_constant=lambda name: pytest.fail(name))
    assert (body["p"], body["q"]) == (None, [None])
    stream = b'data: {"choices":[{"index":0,"delta":{},"p":NaN}]}\n\ndata: [DONE]\n\n'
    [piece] = answer_to(Script(pieces=[stream])).pieces
    assert b"NaN" not in piece


# ---------------------------------------------------------------------- no answers


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    "script",
    [
        Script(),
        Script(pieces=[b"\n\n \n"]),
        Script(pieces=[b"<!DOCTYPE html><html><body>It works!</body></html>"]),
        as_json({"status": "ok"}),
        as_json({"choices": []}),
        as_json([WHOLE]),
        as_json("hello"),
        Script(pieces=[json.dumps(WHOLE).encode()[:-20]], ending=Ending.CUT),
        Script(pieces=[json.dumps(WHOLE).encode()[:-20]], ending=Ending.CLOSED),
        Script(pieces=[sse(chunk(), chunk())]),
        Script(pieces=[sse(chunk(), chunk())], ending=Ending.CUT),
        Script(pieces=[sse("[DONE]")]),
        Script(pieces=[sse({"hello": 1}, "[DONE]")]),
        Script(pieces=[sse("hello", chunk(), "[DONE]")]),
        Script(pieces=[sse(chunk(), {"error": {"message": "m"}}, "[DONE]")]),
        Script(pieces=[b"event: error\n" + sse({"message": "out of memory"})]),
        Script(pieces=[sse(chunk(), chunk(finish="abort"), "[DONE]")]),
        Script(pieces=[bytes(range(256)) * 20]),
        as_json({"error": {"message": "m", "type": "internal"}}),
        as_json({"object": "error", "message": "m", "code": 500}),
    ],
    ids=[
        "empty",
        "blank",
        "html",
        "other json",
        "no choices",
        "list",
        "text",
        "cut json",
        "short json",
        "no end",
        "cut",
        "only done",
        "other events",
        "no json",
        "error event",
        "error by name",
        "aborted",
        "binary",
        "error",
        "old error",
    ],
)
def test_what_is_no_complete_answer_is_a_failure_of_the_engine(
    script: Script, stream: bool
) -> None:
    got = answer_to(script, claim(stream=stream))
    assert isinstance(got.error, EngineFailed)


@pytest.mark.parametrize("rest", [[], [chunk(finish="stop")]], ids=["nothing", "an-answer"])
def test_what_is_no_part_of_an_answer_never_reaches_the_client(rest: list[Any]) -> None:
    got = answer_to(Script(pieces=[sse({"hello": "world"}, {"object": "page"}, *rest, "[DONE]")]))
    assert [json.loads(piece) for piece in got.pieces] == rest
    assert (got.error is None) == bool(rest)


def test_a_part_of_the_choices_is_no_complete_answer() -> None:
    script = Script(pieces=[sse(chunk(finish="stop"), chunk(index=1))], ending=Ending.CUT)
    assert isinstance(answer_to(script, claim(n=2)).error, EngineFailed)
    both = sse(chunk(finish="stop"), chunk(index=1, finish="stop"))
    assert answer_to(Script(pieces=[both], ending=Ending.CUT), claim(n=2)).error is None


@pytest.mark.slow
def test_an_engine_that_stops_in_mid_answer_times_out() -> None:
    got = answer_to(Script(pieces=[sse(chunk())], ending=Ending.OPEN), timeout_s=0.3)
    assert isinstance(got.error, EngineFailed)
    assert len(got.pieces) == 1


@pytest.mark.parametrize("status", [400, 402, 413, 415, 422, 451])
def test_a_refusal_has_the_engines_status_and_body(status: int) -> None:
    body = {"error": {"message": "too long", "type": "BadRequestError", "code": status}}
    got = answer_to(as_json(body, status=status), claim(stream=False))
    assert isinstance(got.error, EngineRefused)
    assert (got.error.status, got.error.body, got.error.message) == (status, body, "too long")


def test_an_error_with_status_200_is_known_for_what_it_is() -> None:
    refused = {"error": {"message": "too long", "type": "invalid_request_error", "code": None}}
    assert isinstance(answer_to(as_json(refused)).error, EngineRefused)
    busy = {"error": {"message": "later", "code": 429}}
    assert isinstance(answer_to(Script(pieces=[sse(busy)])).error, EngineBusy)


# ---------------------------------------------------------------------- fields that the worker adds

REFUSALS: dict[str, Any] = {
    "pydantic": {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"]}]},
    "openai": {"error": {"message": "Unrecognized request argument supplied: stream_options"}},
    "words": {"error": "Stream options are not supported"},
    "option": {"message": "include_usage: unknown"},
    "silent": {"detail": "Unprocessable Entity"},
}


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("words", REFUSALS)
def test_a_field_that_the_worker_adds_is_left_out_after_its_first_refusal(
    words: str, status: int
) -> None:
    def plan(path: str, body: dict[str, Any]) -> Script:
        if "stream_options" in body:
            return as_json(REFUSALS[words], status=status)
        return Script(pieces=[sse(chunk(), "[DONE]")])

    async def body() -> None:
        async with ScriptedEngine(plan).listening() as server:
            engine = VllmEngine(server.url, model="m")
            first, second = [await ask(engine, claim()) for _ in range(2)]
            own = await ask(engine, claim(stream_options={"include_usage": True}))
            await engine.aclose()
        assert (first.error, second.error) == (None, None)
        assert ["stream_options" in b for b in server.bodies] == [True, False, False, True]
        assert all("priority" in b for b in server.bodies)  # which it takes
        # What the client sent itself is refused with the engine's own words.
        assert isinstance(own.error, EngineRefused)
        assert (own.error.status, own.error.body) == (status, REFUSALS[words])

    asyncio.run(body())


def test_an_engine_that_takes_none_of_the_added_fields_gets_none() -> None:
    def plan(path: str, body: dict[str, Any]) -> Script:
        for name in ("priority", "stream_options"):
            if name in body:
                return as_json({"detail": f"unknown field {name}"}, status=422)
        return Script(pieces=[sse(chunk(), "[DONE]")])

    async def body() -> None:
        async with ScriptedEngine(plan).listening() as server:
            engine = VllmEngine(server.url, model="m")
            await engine.probe()
            got = [await ask(engine, claim()) for _ in range(2)]
            await engine.aclose()
        assert [g.error for g in got] == [None, None]
        assert "priority" not in server.bodies[-1]
        assert len(server.bodies) == 2 + 2 + 1  # each field is refused once

    asyncio.run(body())


def test_a_refused_request_is_sent_once_to_an_engine_that_takes_the_fields() -> None:
    def plan(path: str, body: dict[str, Any]) -> Script:
        if body["messages"] == []:
            return as_json({"detail": "messages must not be empty"}, status=422)
        return Script(pieces=[sse(chunk(), "[DONE]")])

    async def body() -> None:
        async with ScriptedEngine(plan).listening() as server:
            engine = VllmEngine(server.url, model="m")
            await ask(engine, claim())
            got = await ask(engine, claim(messages=[]))
            await engine.aclose()
        assert isinstance(got.error, EngineRefused)
        assert len(server.bodies) == 2

    asyncio.run(body())


# ---------------------------------------------------------------------- health


def health_of(server: ScriptedEngine, **options: Any) -> Any:
    async def body() -> Any:
        async with server.listening():
            engine = VllmEngine(server.url, **({"model": "m"} | options))
            try:
                return await engine.health()
            finally:
                await engine.aclose()

    return asyncio.run(body())


def test_an_engine_that_lists_another_model_is_in_trouble_and_both_names_are_told() -> None:
    health = health_of(ScriptedEngine(Script(), models=["theirs"]))
    assert "'theirs'" in health.problem
    assert "'m'" in health.problem
    assert health.max_model_len is None
    assert health_of(ScriptedEngine(Script(), models=["a", "m"])).problem is None
    assert health_of(ScriptedEngine(Script(), models=["a"]), must_list=False).problem is None


def test_an_engine_that_lists_nothing_has_to_prove_itself() -> None:
    health = health_of(ScriptedEngine(Script(), models=[]))
    assert not health.certain
    assert health.problem is not None


# ---------------------------------------------------------------------- mutated streams

TEXTS = st.text(st.sampled_from('aé漢😀"\\{}[]\n\r :,data'), max_size=6)
CHOICES = st.sampled_from([[0], [0], [0, 1]])
COMMENTS = st.sampled_from(
    [b": ping", b":", b"id: 7", b"retry: 10", b"event: message", b"data", b"x"]
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, int]:
    """A stream with some damage, and how many choices were asked for."""
    choices = draw(CHOICES)
    parts: list[list[bytes]] = []
    for _ in range(draw(st.integers(0, 6))):
        made = chunk(draw(TEXTS), index=draw(st.sampled_from(choices)))
        text = json.dumps(made, ensure_ascii=draw(st.booleans())).encode()
        if draw(st.integers(0, 9)) == 0:  # over several lines
            text = text.replace(b", ", b",\ndata: ")
        parts.append([draw(st.sampled_from([b"data: ", b"data:"])) + text])
    for index in choices:
        if draw(st.integers(0, 4)):
            parts.append([b"data: " + json.dumps(chunk("", finish="stop", index=index)).encode()])
    if draw(st.booleans()):
        parts.append([b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode()])
    if draw(st.integers(0, 3)):
        parts.append([b"data: [DONE]"])
    for _ in range(draw(st.integers(0, 2))):  # damage
        at = draw(st.integers(0, len(parts)))
        parts.insert(
            at,
            draw(
                st.sampled_from(
                    [
                        [b"data: {"],
                        [b"data: null"],
                        [b'data: {"ping":1}'],
                        [b'data: {"error":{"message":"m","code":500}}'],
                        [b"event: error", b'data: {"message":"m"}'],
                        [b"data: \xff\xfe"],
                        [],
                    ]
                )
            ),
        )
    newline = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]))
    lines: list[bytes] = []
    for part in parts:
        lines += draw(st.lists(COMMENTS, max_size=1)) + part + [b""]
    data = newline.join([*lines, b""])
    if draw(st.integers(0, 3)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    return (b"\xef\xbb\xbf" if draw(st.booleans()) else b"") + data, len(choices)


def expected(stream: bytes, choices: int) -> tuple[bool, list[Any]]:
    """Read a stream at once: whether it is a complete answer, and the events that a client gets."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    blocks = text.split(b"\n\n")
    shown: list[Any] = []
    seen: set[int] = set()
    finished: set[int] = set()
    for number, block in enumerate(blocks):
        lines = block.split(b"\n")
        data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
        if not data:
            continue
        joined, last = b"\n".join(data), number == len(blocks) - 1
        if joined.strip() == b"[DONE]":
            return bool(seen), shown
        try:
            event = json.loads(joined)
        except ValueError:
            event = None
        complete = len(finished) >= choices
        broken = not isinstance(event, dict) or "error" in event
        broken |= any(line.strip() == b"event: error" for line in lines)
        if broken:
            if last and event is None:
                break  # the stream was cut here
            return complete, shown
        for choice in event.get("choices", []):
            seen.add(choice["index"])
            if choice["finish_reason"]:
                finished.add(choice["index"])
        if "usage" not in event:
            shown.append(event)
    return bool(seen) and seen <= finished, shown


@given(made=streams(), cuts=st.lists(st.integers(1, 400), max_size=8), data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.slow
def test_a_mutated_stream_is_read_as_the_reference_reads_it(
    engine_loop: EngineLoop, made: tuple[bytes, int], cuts: list[int], data: st.DataObject
) -> None:
    stream, choices = made
    pieces, at = [], 0
    for size in cuts:
        pieces.append(stream[at : at + size])
        at += size
    pieces.append(stream[at:])
    content_type = data.draw(
        st.sampled_from(["text/event-stream", "text/plain", "application/json", None])
    )
    ending = data.draw(st.sampled_from([Ending.CLEAN, Ending.CLOSED]))
    script = Script(pieces=pieces, content_type=content_type, ending=ending)
    got = engine_loop.ask(script, claim(n=choices))
    complete, shown = expected(stream, choices)
    event("complete" if complete else "incomplete")
    assert (got.error is None) == complete, (got.error, stream)
    assert [json.loads(piece) for piece in got.pieces] == shown


class EngineLoop:
    """One scripted engine and one client for all examples."""

    def __init__(self) -> None:
        self.server = ScriptedEngine(Script())
        self._runner = asyncio.Runner()
        self._listening = self.server.listening()
        self._runner.run(self._listening.__aenter__())
        self.engine = OpenAIEngine(self.server.url, model="m")

    def ask(self, script: Script, asked: Claim) -> Got:
        self.server.plan = script
        return self._runner.run(ask(self.engine, asked))

    def close(self) -> None:
        async def body() -> None:
            await self.engine.aclose()
            await self._listening.__aexit__(None, None, None)

        self._runner.run(body())
        self._runner.close()


@pytest.fixture
def engine_loop() -> Any:
    made = EngineLoop()
    yield made
    made.close()
