"""The facts of a request beside its text, and the text that the predictor reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lengthwise_contract.prediction import PredictRequest
from lengthwise_contract.prompts import render_prompt, render_request, split_instructions
from lengthwise_contract.request_facts import request_facts
from lengthwise_queue.openai.chat import CHAT
from lengthwise_store.training_log import length_row

SYSTEM = {"role": "system", "content": "You answer customers of a shop. " * 40}
USER = {"role": "user", "content": "Where is my parcel?"}


@pytest.mark.parametrize(
    ("body", "want"),
    [
        ({}, {}),
        ({"max_tokens": 9, "max_completion_tokens": 8}, {"max_tokens": 8}),
        ({"max_tokens": True, "n": 0, "temperature": "hot", "stop": 3, "tools": {}}, {}),
        (
            {"temperature": 0, "n": 2, "stop": ["a", 1, ""]},
            {"temperature": 0.0, "n": 2, "stop": ["a"]},
        ),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 50}}, {"thinking_budget_tokens": 50}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"thinking_budget_tokens": 0}),
        ({"chat_template_kwargs": {"thinking_budget": 7}}, {"thinking_budget_tokens": 7}),
        ({"adapter": "legal"}, {"adapter": "legal"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            {"response_format": {"type": "json_schema"}},
        ),
        (
            {
                "tool_choice": "auto",
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}, 3],
            },
            {"tool_choice": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
        ),
    ],
    ids=lambda one: json.dumps(one)[:40],
)
def test_facts_are_those_that_the_body_has_and_wrong_ones_are_absent(
    body: dict[str, Any], want: dict[str, Any]
) -> None:
    assert request_facts(body) == want
    PredictRequest(model="m", prompt="p", **request_facts(body))  # the predictor accepts them


def test_facts_of_a_request_with_megabytes_of_tools_are_small() -> None:
    tool = {"type": "function", "function": {"name": "x" * 500, "parameters": {"a": "b" * 5000}}}
    facts = request_facts({"tools": [tool] * 1000, "stop": ["s" * 9999] * 999})
    assert len(json.dumps(facts)) < 16_384


def test_a_leading_system_prompt_is_apart_from_the_text_that_the_predictor_reads() -> None:
    parsed = CHAT.parse({"model": "m", "messages": [SYSTEM, USER], "max_tokens": 5})
    assert parsed.text == USER["content"]
    assert parsed.instructions == SYSTEM["content"]
    assert parsed.messages == [SYSTEM, USER]
    assert parsed.facts == {"max_tokens": 5}


def test_a_developer_message_instructs_and_a_later_system_message_is_a_turn() -> None:
    developer = {"role": "developer", "content": "Be brief."}
    text, rest = split_instructions([developer, SYSTEM, USER, SYSTEM])
    assert text == "Be brief.\n\n" + SYSTEM["content"]
    assert rest == [USER, SYSTEM]


def test_a_chat_with_nothing_but_a_system_message_is_read_whole() -> None:
    assert render_request([SYSTEM]) == render_prompt([SYSTEM])
    assert render_request([SYSTEM, {"role": "user", "content": ""}]) == render_prompt([SYSTEM])
    assert render_request([]) == ""


def test_a_row_of_the_training_log_carries_the_facts() -> None:
    request = {"messages": [USER], "max_tokens": 4, "reasoning_effort": "low", "top_k": 3}
    row = length_row("id", "q", request, output_tokens=4, prompt_tokens=None)
    assert row is not None
    assert row["facts"] == {"max_tokens": 4, "reasoning_effort": "low"}
    assert row["censored"] is True
