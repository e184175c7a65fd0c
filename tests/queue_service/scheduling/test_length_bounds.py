"""What is certain about a length is priced as certain: from the body to the order of service."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.openai.registry import ENDPOINTS
from lengthwise_queue.prediction.expected_length import expected_tokens
from lengthwise_queue.scheduling.length_bounds import NATURAL, LengthBounds, length_bounds
from lengthwise_queue.scheduling.pricing import price
from lengthwise_store.queues import QueueStats

WORDS = ["positive", "negative"]
SHORT_SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"enum": ["yes", "no"]}, "sure": {"type": "boolean"}},
    "additionalProperties": False,
}


def schema(value: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}


@pytest.mark.parametrize(
    ("body", "want"),
    [
        ({}, NATURAL),
        ({"ignore_eos": True, "max_tokens": 4000}, LengthBounds(runs_to_cap=True)),
        ({"ignore_eos": True, "stop": ["x"]}, NATURAL),
        ({"ignore_eos": True, "stop_token_ids": [7]}, NATURAL),
        ({"ignore_eos": True, "stop": [], "stop_token_ids": None}, LengthBounds(runs_to_cap=True)),
        ({"ignore_eos": False}, NATURAL),
        ({"ignore_eos": "yes", "min_tokens": "many", "guided_choice": 3}, NATURAL),
        ({"min_tokens": 2000}, LengthBounds(least=2000)),
        ({"min_tokens": -1}, NATURAL),
        ({"guided_choice": WORDS}, LengthBounds(most=4)),
        ({"choice": WORDS}, LengthBounds(most=4)),
        ({"structured_outputs": {"choice": WORDS}}, LengthBounds(most=4)),
        ({"structured_outputs": {"choice": []}}, NATURAL),
        ({"structured_outputs": {"choice": WORDS}, "ignore_eos": True}, LengthBounds(most=4)),
        ({"structured_outputs": {"regex": "[0-9]{3}-[0-9]{4}"}}, LengthBounds(most=4)),
        ({"guided_regex": "yes|no"}, LengthBounds(most=2)),
        ({"guided_regex": "a+"}, NATURAL),
        ({"guided_regex": "("}, NATURAL),
        ({"guided_regex": "(" * 5000}, NATURAL),
        ({"response_format": schema({"enum": ["red", "green"]})}, LengthBounds(most=4)),
        ({"response_format": schema(SHORT_SCHEMA)}, LengthBounds(most=13)),
        ({"guided_json": SHORT_SCHEMA}, LengthBounds(most=13)),
        ({"guided_json": json.dumps(SHORT_SCHEMA)}, LengthBounds(most=13)),
        ({"guided_json": "{"}, NATURAL),
        ({"response_format": schema(SHORT_SCHEMA | {"additionalProperties": True})}, NATURAL),
        ({"response_format": schema({"type": "string"})}, NATURAL),
        ({"response_format": {"type": "json_object"}}, NATURAL),
        ({"choice": WORDS, "reasoning_effort": "high"}, NATURAL),
        ({"choice": WORDS, "chat_template_kwargs": {"enable_thinking": True}}, NATURAL),
    ],
)
def test_the_bounds_of_a_body(body: dict[str, Any], want: LengthBounds) -> None:
    assert length_bounds(body) == want


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [
        "ignore_eos",
        "min_tokens",
        "choice",
        "guided_choice",
        "guided_regex",
        "guided_json",
        "json_schema",
        "regex",
        "stop",
        "structured_outputs",
        "response_format",
        "chat_template_kwargs",
        "enum",
        "type",
        "properties",
        "anyOf",
        "maxLength",
        "maxItems",
    ]
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(body=st.dictionaries(NAMES, JSON | st.dictionaries(NAMES, JSON)))
def test_any_body_has_bounds(body: dict[str, Any]) -> None:
    bounds = length_bounds(body)
    assert bounds.least >= 0
    assert bounds.most is None or bounds.most >= 1


def predicted(tokens: float) -> Prediction:
    return Prediction(
        model_version="v",
        p10_tokens=tokens / 2,
        p50_tokens=tokens,
        p90_tokens=tokens * 2,
        mean_tokens=tokens,
        rank_score=0,
    )


@given(
    tokens=st.none() | st.floats(1, 5000),
    least=st.integers(0, 5000),
    cap=st.none() | st.integers(1, 5000),
    runs=st.booleans(),
)
def test_an_expected_length_is_within_what_is_certain(
    tokens: float | None, least: int, cap: int | None, runs: bool
) -> None:
    found = expected_tokens(
        None if tokens is None else predicted(tokens),
        median_tokens=122,
        max_tokens=cap,
        min_tokens=least,
        runs_to_cap=runs,
    )
    assert found >= min(least, cap or least) - 1e-6
    assert cap is None or found <= cap + 1e-6
    if runs and cap is not None:
        assert found == cap
    if tokens is not None and cap is None and least == 0:
        assert found == expected_tokens(predicted(tokens), median_tokens=122, max_tokens=None)


def stats() -> QueueStats:
    return QueueStats(
        now_ms=0,
        depth=0,
        scheduled=0,
        in_flight=0,
        dead=0,
        backlog_tokens=0,
        oldest_accepted_ms=None,
        ms_per_token=10,
        median_tokens=122,
        counters={},
        workers=[],
    )


def priced(body: dict[str, Any], of: QueueSettings | None = None) -> float:
    whole = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **body}
    [chat] = [endpoint for endpoint in ENDPOINTS if endpoint.path == "/v1/chat/completions"]
    parsed = chat.parse(whole)
    return price(
        of or QueueSettings(),
        stats(),
        prediction=predicted(122),
        job_class="interactive",
        max_tokens=parsed.max_tokens,
        answers=parsed.answers,
        bounds=parsed.bounds,
    ).tokens


def test_prices_follow_what_is_certain() -> None:
    # All of these were predicted at 122 tokens.
    assert priced({"ignore_eos": True, "max_tokens": 4000}) == 4000
    assert priced({"ignore_eos": True}, QueueSettings(max_model_len=2048)) == 2048
    assert priced({"min_tokens": 2000}) >= 2000
    assert priced({"min_tokens": 2000, "max_tokens": 2000}) == 2000
    assert priced({"structured_outputs": {"choice": ["yes", "no"]}}) <= 3
    assert priced({"choice": WORDS, "n": 5}) <= 20
    assert priced({"best_of": 4, "n": 2}) == pytest.approx(4 * priced({}))
    assert 100 < priced({}) < 200
    assert priced({"ignore_eos": True, "max_tokens": 10**9}, QueueSettings(max_model_len=99)) == 99


def test_the_queue_serves_by_what_is_certain(idle_front: Any) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "forced": {"ignore_eos": True, "max_tokens": 4000},
        "long": {"min_tokens": 2000},
        "usual": {},
        "choice": {"structured_outputs": {"choice": ["yes", "no"]}},
    }
    ids = {idle_front.submit(**bodies[name]): name for name in bodies}
    view = idle_front.http.get(f"/v1/queues/{idle_front.model}/snapshot").json()
    assert [ids[job["id"]] for job in view["waiting"]] == ["choice", "usual", "long", "forced"]
    tokens = {ids[job["id"]]: job["predicted_tokens"] for job in view["waiting"]}
    assert (tokens["forced"], tokens["long"], tokens["choice"]) == (4000, 2000, 2)
