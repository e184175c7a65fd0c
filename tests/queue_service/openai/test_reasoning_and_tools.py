"""The reasoning of a model, what its answer cost in detail, and tools that a chat does not have."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from lengthwise_store.jobs import Claim, Outcome

Front = Any  # tests/queue_service/conftest.py
DeltaOf = Callable[..., bytes]
Steps = AsyncIterator[bytes | Outcome]

USER: Any = [{"role": "user", "content": "Hi"}]
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 7,
    "total_tokens": 16,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


@pytest.fixture(params=["reasoning", "reasoning_content", "both"])
def thinking(request: pytest.FixtureRequest, front: Front, delta_of: DeltaOf) -> Front:
    """A queue service whose engine thinks before it answers, and says so in its own way."""
    names = ["reasoning", "reasoning_content"] if request.param == "both" else [request.param]

    def thought(text: str) -> dict[str, str]:
        return dict.fromkeys(names, text)

    async def script(claim: Claim) -> Steps:
        if json.loads(claim.body).get("stream"):
            yield delta_of("", role="assistant")
            yield delta_of(**thought("Let me "))
            yield delta_of(**thought("see."))
            yield delta_of("It is 4.")
            yield delta_of(finish="stop")
            yield json.dumps({"id": "c", "choices": [], "usage": USAGE}).encode()
            return
        message = {"role": "assistant", "content": "It is 4."} | thought("Let me see.")
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        yield json.dumps({"id": "c", "choices": choices, "usage": USAGE}).encode()

    front.worker.script = script
    return front


def test_a_response_has_the_reasoning_as_an_item_of_its_own(thinking: Front) -> None:
    client = thinking.openai()
    made = client.responses.create(model=thinking.model, input="2 + 2?")
    reasoning, message = made.output
    assert (reasoning.type, reasoning.content[0].text) == ("reasoning", "Let me see.")
    assert (message.type, made.output_text) == ("message", "It is 4.")
    assert made.usage.input_tokens_details.cached_tokens == 4
    assert made.usage.output_tokens_details.reasoning_tokens == 5
    assert client.responses.retrieve(made.id) == made


def test_a_streamed_response_has_the_events_of_the_reasoning(thinking: Front) -> None:
    with thinking.openai().responses.stream(model=thinking.model, input="2 + 2?") as stream:
        events = list(stream)
    assert [e.type for e in events] == [
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.delta",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.reasoning_text.done",
        "response.output_item.done",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.reasoning_text.delta") == (
        "Let me see."
    )
    last = events[-1].response
    assert [item.type for item in last.output] == ["reasoning", "message"]
    assert last.usage.output_tokens_details.reasoning_tokens == 5


def test_the_reasoning_is_not_part_of_the_conversation_that_follows(thinking: Front) -> None:
    client = thinking.openai()
    first = client.responses.create(model=thinking.model, input="2 + 2?")
    client.responses.create(model=thinking.model, input="And?", previous_response_id=first.id)
    sent = json.loads(thinking.worker.bodies[-1])["messages"]
    assert sent[1] == {"role": "assistant", "content": "It is 4."}
    # A client that keeps the conversation itself may send the items back as they came.
    items = [*(item.model_dump() for item in first.output), {"role": "user", "content": "And?"}]
    client.responses.create(model=thinking.model, input=items)
    assert json.loads(thinking.worker.bodies[-1])["messages"][0] == sent[1]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_chats_and_jobs_have_the_reasoning_and_the_details_of_usage(
    thinking: Front, stream: bool
) -> None:
    job_id = thinking.submit(stream=stream, stream_options={"include_usage": True})
    response = thinking.ended(job_id)["response"]
    message = response["choices"][0]["message"]
    assert (message.get("reasoning") or message["reasoning_content"]) == "Let me see."
    assert response["usage"] == USAGE
    if stream:
        chat = thinking.http.post(
            "/v1/chat/completions",
            json=thinking.chat(stream=True, stream_options={"include_usage": True}),
        )
        assert "Let me " in chat.text
        assert '"reasoning_tokens": 5' in chat.text
    else:
        chat = thinking.http.post("/v1/chat/completions", json=thinking.chat())
        assert chat.json()["usage"] == USAGE


@pytest.mark.parametrize(
    ("tool", "named", "what_to_do"),
    [
        ({"type": "web_search"}, "`web_search`", "run it yourself"),
        ({"type": "custom", "name": "shell"}, "`custom` (`shell`)", "one string parameter"),
        ({"type": "mcp", "server_label": "x"}, "`mcp`", "run it yourself"),
        ({"name": "no_type"}, "(`no_type`)", "run it yourself"),
        ({"type": ["odd"]}, "`tools[1]`", "run it yourself"),
        ({}, "`tools[1]`", "run it yourself"),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value),
)
def test_a_tool_that_a_chat_does_not_have_is_named_with_what_to_do(
    idle_front: Front, tool: dict[str, Any], named: str, what_to_do: str
) -> None:
    function = {"type": "function", "name": "f", "parameters": {}}
    body = {"model": idle_front.model, "input": "Hi", "tools": [function, tool]}
    answer = idle_front.http.post("/v1/responses", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "tools[1].type")
    assert named in error["message"]
    assert what_to_do in error["message"]
