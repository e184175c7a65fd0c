"""Hostile input: every request gets a response or an error object, and in time.

In time means within the suite's time limit; each input here once took, or would take, far longer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from lengthwise_contract.prediction import Prediction, RankResponse
from lengthwise_contract.prompts import MAX_PROMPT_CHARS
from lengthwise_predictor import features
from lengthwise_predictor.app import create_app
from lengthwise_predictor.settings import PredictorSettings

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)  # lone surrogates too
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.lists(
    st.fixed_dictionaries({}, optional={"role": ANY_JSON, "content": ANY_TEXT | ANY_JSON}),
    max_size=4,
)
NEARLY = st.fixed_dictionaries(
    {"model": ANY_TEXT | ANY_JSON},
    optional={
        "prompt": ANY_TEXT | ANY_JSON,
        "messages": MESSAGES | ANY_JSON,
        "predictor": ANY_JSON,
        "prompts": st.lists(ANY_TEXT | MESSAGES, max_size=4) | ANY_JSON,
        "inputs": ANY_JSON,
    },
)
PATHS = ("/v1/predict", "/v1/predict/batch", "/v1/rank")


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(PredictorSettings()), raise_server_exceptions=True) as client:
        yield client


def check(answer: Any, path: str) -> None:
    if answer.status_code == 200:
        body = answer.json()
        if path == "/v1/rank":
            RankResponse.model_validate(body)
        else:
            for one in body.get("predictions", [body]):
                Prediction.model_validate(one)
        return
    assert answer.status_code in (400, 404, 413), answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) < 2000


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=NEARLY | ANY_JSON, path=st.sampled_from(PATHS))
def test_any_json_is_answered_or_refused(client: TestClient, body: Any, path: str) -> None:
    check(client.post(path, content=json.dumps(body)), path)


@settings(max_examples=60, deadline=None)
@given(raw=st.binary(max_size=200), path=st.sampled_from(PATHS))
def test_any_bytes_are_answered_or_refused(client: TestClient, raw: bytes, path: str) -> None:
    check(client.post(path, content=raw), path)


@settings(max_examples=60, deadline=None)
@given(text=ANY_TEXT)
def test_any_prompt_without_lone_surrogates_is_answered(client: TestClient, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    answer = client.post("/v1/predict", json={"model": "m", "prompt": text})
    assert answer.status_code == 200
    check(answer, "/v1/predict")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model": "m", "messages": ' + b"[" * 100_000,
        b'{"model": "m", "messages": [{"content": '
        + b'{"a": ' * 50_000
        + b"1"
        + b"}" * 50_000
        + b"}]}",
        b'{"model": "m", "messages": [' + b'{"role":"user"},' * 300_000 + b'{"role":"user"}]}',
        b'{"model": "m", "prompt": "x", ' + b'"a": 1, ' * 200_000 + b'"b": 1}',
        b'{"model": "m", "prompt": ' + b"9" * 1_000_000 + b"}",
        b'{"model": "' + b"m" * 1_000_000 + b'", "prompt": "x"}',
        b'{"model": "m", "prompt": "' + b"\\ud800" * 100_000 + b'"}',
        b'{"model": "m", "prompt": "' + b"\\u0000" * 150_000 + b'"}',
    ],
    ids=[
        "lists without end", "deep objects", "300,000 messages", "200,000 unknown fields",
        "a number of a million digits", "a long name", "lone surrogates", "nothing but NUL",
    ],
)  # fmt: skip
def test_a_huge_body_is_answered_or_refused(client: TestClient, raw: bytes) -> None:
    check(client.post("/v1/predict", content=raw), "/v1/predict")


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "\n" * MAX_PROMPT_CHARS,
        "\t\n" * (MAX_PROMPT_CHARS // 2),
        "1" + " " * (MAX_PROMPT_CHARS - 1),
        "1 " + "a" * (MAX_PROMPT_CHARS - 2),
        "1." * (MAX_PROMPT_CHARS // 2),
        ("1-" * 50 + "\n") * (MAX_PROMPT_CHARS // 101),
    ],
    ids=["line ends", "blank lines", "a gap", "a word", "dots", "dashes"],
)
def test_text_designed_to_slow_the_regular_expressions_does_not(
    client: TestClient, text: str
) -> None:
    # 16,384 line ends took 3 s: `^\s*` scans over line ends, again from each line. 60 such texts
    # would exceed the time limit of a test.
    answer = client.post(
        "/v1/predict/batch", json={"inputs": [{"model": "m", "prompt": text}] * 60}
    )
    check(answer, "/v1/predict/batch")
    assert answer.status_code == 200
    assert len(answer.json()["predictions"]) == 60


@given(st.text(alphabet="\n\t\r\x0b -*1.)a\u2022", max_size=60))
def test_the_faster_count_of_list_lines_counts_the_same(text: str) -> None:
    as_trained = re.compile(r"^\s*(?:[-*\u2022]|\d{1,3}[.)])\s", re.MULTILINE)
    assert len(features._LIST_LINE.findall(text)) == len(as_trained.findall(text))
