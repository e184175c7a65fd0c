"""Requests that are wrong in every way a client can think of, on every route: never a 5xx.

`test_schemathesis.py` sends requests that the OpenAPI document describes, or nearly. Here a valid
body is damaged at any place, and at the level of bytes.
"""

from __future__ import annotations

import copy
import gzip
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lengthwise_queue.app import create_app
from lengthwise_queue.settings import Settings
from lengthwise_store.jobs import Claim, Outcome

Front = Any  # tests/queue_service/conftest.py
DeltaOf = Callable[..., bytes]

MODEL = "org/model-1.5"
LIMIT = 65_536

CHAT: dict[str, Any] = {
    "model": MODEL,
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f"}}]},
    ],
    "max_tokens": 5,
    "max_completion_tokens": 5,
    "n": 1,
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 1.0,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "tool_choice": "auto",
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
    "stop": ["a"],
    "chat_template_kwargs": {"enable_thinking": False},
    "reasoning_effort": "low",
}

#: A valid body of each route that takes JSON. The queue is not the one of the others.
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/chat/completions"): CHAT,
    ("POST", "/v1/completions"): {
        "model": MODEL,
        "prompt": ["Hi", "Ho"],
        "max_tokens": 5,
        "n": 2,
        "echo": True,
        "suffix": "x",
        "stream": False,
    },
    ("POST", "/v1/responses"): {
        "model": MODEL,
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "4"},
        ],
        "instructions": "Be brief.",
        "background": True,
        "stream": False,
        "max_output_tokens": 5,
        "metadata": {"a": "b"},
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "s", "schema": {}}},
        "reasoning": {"effort": "low"},
        "include": [],
        "truncation": "disabled",
    },
    ("POST", "/v1/jobs"): {
        "body": CHAT,
        "endpoint": "/v1/chat/completions",
        "class": "batch",
        "max_attempts": 2,
        "delay_ms": 0,
        "ttl_ms": 60_000,
    },
    ("POST", "/v1/batches"): {
        "input_file_id": "file-1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"a": "b"},
        "output_expires_after": {"anchor": "created_at", "seconds": 3600},
    },
    ("PUT", "/v1/queues/other"): {
        "policy": "sjf",
        "overtake_factor": 3,
        "max_depth": 10,
        "max_wait_ms": 1000,
        "classes": [{"name": "interactive", "offset_ms": 0}],
        "request_ttl_ms": 60_000,
    },
}

#: Values that are wrong nearly everywhere.
VALUES: list[Any] = [
    *(None, True, 0, -1, 1.5, 1e308, 2**31, 2**63, 10**400, "", "x", "\0", "\u202e", "x" * 5000),
    *([], {}, [None], [[]], [1, "a"], {"type": "text"}, {"a": {"b": [1]}}, {"": ""}),
]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


VALUES.append(nested(50))


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The path of every field and item in a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        yield (key,)
        if isinstance(inner, dict | list):
            yield from ((key, *rest) for rest in places(inner))


@st.composite
def damaged(draw: st.DrawFn, body: dict[str, Any]) -> dict[str, Any]:
    """The body with one to three fields replaced, removed or added."""
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(sorted(places(body), key=repr)))
        holder = body
        for step in path:
            holder = holder[step]
        what = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if what == "replace" or isinstance(holder, list):
            holder[last] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif what == "remove" and len(body) > 1:
            del holder[last]
        else:
            holder[draw(st.sampled_from(["x", "", "__proto__", "model\0"]))] = 1
    return body


@pytest.fixture(scope="module")
def served(front_class: type[Any], valkey_port: int) -> Iterator[Front]:
    """A queue service with a worker that answers whatever it is asked."""
    front = front_class(f"redis://127.0.0.1:{valkey_port}/2", max_body_bytes=LIMIT)
    front.put_queue()

    async def script(claim: Claim) -> AsyncIterator[bytes | Outcome]:
        choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}
        yield json.dumps({"id": "c", "choices": [choice]}).encode()

    front.worker.script = script
    front.worker.start()
    yield front
    front.close()


def check(answer: httpx.Response, what: object) -> None:
    said = f"{answer.status_code} {answer.text[:300]} for {str(what)[:1000]}"
    assert answer.status_code < 500, said
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"], said


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), BODIES, ids=str)
def test_a_body_that_is_damaged_anywhere_is_never_a_5xx(
    served: Front, method: str, path: str
) -> None:
    @settings(
        max_examples=60,
        phases=[Phase.explicit, Phase.generate],  # a shorter example would cost minutes
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(body=damaged(BODIES[method, path]))
    def run(body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        check(served.http.request(method, path, content=raw, headers=headers), body)

    run()


def raw_bodies(body: dict[str, Any]) -> dict[str, tuple[bytes, dict[str, str]]]:
    """Bodies that are wrong at the level of bytes, and their headers."""
    raw = json.dumps(body).encode()
    first = raw[:-1] + b","
    return {
        "empty": (b"", {}),
        "blanks": (b" \n\t", {}),
        "cut": (raw[: len(raw) // 2], {}),
        "more behind": (raw + b"{}", {}),
        "twice the key": (first + b'"model":"nope","model":"org/model-1.5"}', {}),
        "NaN": (first + b'"temperature":NaN}', {}),
        "Infinity": (first + b'"temperature":-Infinity}', {}),
        "too large a float": (first + b'"temperature":1e999}', {}),
        "too large an integer": (first + b'"seed":' + b"9" * 5000 + b"}", {}),
        "half a surrogate pair": (first + b'"user":"\\ud800"}', {}),
        "half a pair in a key": (first + b'"\\ud800":1}', {}),
        "not UTF-8": (first + b'"user":"\xff\xfe"}', {}),
        "overlong UTF-8": (first + b'"user":"\xc0\x80"}', {}),
        "UTF-16": (json.dumps(body).encode("utf-16"), {}),
        "a byte order mark": (b"\xef\xbb\xbf" + raw, {}),
        "NUL": (first + b'"user":"\\u0000"}', {}),
        "a raw NUL": (raw + b"\0", {}),
        "deep": (first + b'"user":' + b"[" * 30_000 + b"]" * 30_000 + b"}", {}),
        "deep, open": (b'{"a":' * 10_000, {}),
        "a number": (b"1", {}),
        "a text": (b'"x"', {}),
        "null": (b"null", {}),
        "over the limit": (first + b'"user":"' + b"x" * LIMIT + b'"}', {}),
        "gzip": (gzip.compress(raw), {"Content-Encoding": "gzip"}),
        "gzip, not told": (gzip.compress(raw), {}),
        "not gzip": (raw, {"Content-Encoding": "gzip"}),
        "a form": (b"model=x", {"Content-Type": "application/x-www-form-urlencoded"}),
        "multipart": (b"--x--", {"Content-Type": "multipart/form-data; boundary=x"}),
        "multipart, no boundary": (b"--x--", {"Content-Type": "multipart/form-data"}),
        "text": (raw, {"Content-Type": "text/plain"}),
        "an odd type": (raw, {"Content-Type": ";;;=\xff"}),
        "an odd charset": (raw, {"Content-Type": "application/json; charset=klingon"}),
        "an odd key": (raw, {"Idempotency-Key": "k\xff\x80"}),
    }


ROUTES = [*BODIES, ("POST", "/v1/files")]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), ROUTES, ids=str)
def test_bytes_that_are_no_valid_body_are_never_a_5xx(
    served: Front, method: str, path: str
) -> None:
    valid = BODIES.get((method, path), CHAT)
    for name, (raw, given_headers) in raw_bodies(valid).items():
        headers = {"Content-Type": "application/json"} | given_headers
        sent = {key.encode(): value.encode("latin-1") for key, value in headers.items()}
        check(served.http.request(method, path, content=raw, headers=sent), name)


OPERATIONS = sorted(
    (method.upper(), path)
    for path, operations in create_app(Settings()).openapi()["paths"].items()
    for method in operations
)


@pytest.mark.slow
def test_odd_names_and_parameters_are_never_a_5xx(served: Front) -> None:
    odd = ["%00", "%ff%fe", "..%2f..", "%F0%9F%98%80", "a" * 3000, "{x}", "-1", "%0d%0aX-A:1", "*"]
    names = ("limit", "after", "state", "order", "tenant", "queue", "force", "last_event_id")
    query = "&".join(f"{name}={{0}}" for name in names)
    for method, path in OPERATIONS:
        if method in ("PUT", "PATCH", "POST") and path.startswith("/v1/queues"):
            continue  # they would change the queue of the other tests, or make queues
        for value in odd:
            url = re.sub(r"{\w+}", value, path) + "?" + query.format(value)
            if "stream" in path:
                continue
            answer = served.http.request(method, served.url + url)
            check(answer, (method, url))


def test_a_chunked_body_that_never_ends_holds_nothing_up(served: Front) -> None:
    at = httpx.URL(served.url)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection((at.host, at.port or 80), timeout=20) as client:
        client.sendall(head.encode() + b'5\r\n{"a":\r\n')
        assert served.http.get("/readyz").status_code == 200
        answered = b""
        piece = b"1000\r\n" + b" " * 4096 + b"\r\n"
        try:
            for _ in range(LIMIT // 4096 + 2):
                client.sendall(piece)
            answered = client.recv(1000)
        except (BrokenPipeError, ConnectionResetError):
            answered = answered or b"HTTP/1.1 413"
    assert b" 413 " in answered + b" "


@pytest.mark.parametrize(
    "sent",
    [b'5\r\n{"a":\r\n', b"zz\r\n", b"-5\r\n", b"FFFFFFFFFFFFFFFFFF\r\n"],
    ids=["cut off", "no size", "a negative size", "a huge size"],
)
def test_a_chunked_body_that_breaks_is_no_5xx(served: Front, sent: bytes) -> None:
    at = httpx.URL(served.url)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection((at.host, at.port or 80), timeout=20) as client:
        client.sendall(head.encode() + sent)
        client.shutdown(socket.SHUT_WR)
        answered = client.recv(1000)
    assert not re.match(rb"HTTP/1.1 5", answered)
    assert served.http.get("/readyz").status_code == 200
