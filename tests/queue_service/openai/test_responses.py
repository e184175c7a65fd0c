"""Responses through the official client, on a real Valkey, with a scripted worker."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
import redis
from tests.waiting import eventually_async

from lengthwise_contract.jobs import JobError
from lengthwise_queue.openai.responses import routes
from lengthwise_queue.tenants.tenant import Tenant
from lengthwise_store.jobs import Claim, Outcome, OutcomeKind

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Of a town",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    "strict": True,
}

#: The events of a short text, in their order.
TEXT_EVENTS = [
    "response.created",
    "response.queued",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


def test_a_response_is_answered_in_openais_shape(front: Any) -> None:
    client = front.openai()
    response = client.responses.create(
        model=front.model, input="Hi", instructions="Be brief.", metadata={"k": "v"}
    )
    assert (response.status, response.output_text) == ("completed", "Hello, you")
    assert response.id.startswith("resp_")
    assert (response.instructions, response.metadata) == ("Be brief.", {"k": "v"})
    assert (response.usage.input_tokens, response.usage.output_tokens) == (3, 7)
    assert (response.error, response.incomplete_details) == (None, None)
    [item] = response.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "completed")
    [body] = front.worker.bodies
    assert json.loads(body) == {
        "model": front.model,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
        ],
        "stream": True,
    }
    assert client.responses.retrieve(response.id) == response


def test_a_streamed_response_has_every_event_once_and_numbered(front: Any) -> None:
    events = list(front.openai().responses.create(model=front.model, input="Hi", stream=True))
    assert [e.type for e in events] == TEXT_EVENTS
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == (
        "Hello, you"
    )
    last = events[-1].response
    assert last.output_text == "Hello, you"
    assert last == front.openai().responses.retrieve(last.id)


@pytest.mark.slow
def test_the_clients_own_stream_helper_follows_along(front: Any) -> None:
    with front.openai().responses.stream(model=front.model, input="Hi") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert final.output_text == "Hello, you"


def test_function_calls_are_translated_both_ways(
    front: Any, delta_of: Callable[..., bytes]
) -> None:
    async def calls(claim: Claim) -> AsyncIterator[bytes | Outcome]:
        first = {"name": "weather", "arguments": ""}
        yield delta_of("", role="assistant")
        yield delta_of(
            tool_calls=[{"index": 0, "id": "call_1", "type": "function", "function": first}]
        )
        for piece in ('{"town"', ': "Bern"}'):
            yield delta_of(tool_calls=[{"index": 0, "function": {"arguments": piece}}])
        yield delta_of(finish="tool_calls")

    front.worker.script = calls
    client = front.openai()
    request: Any = {
        "model": front.model,
        "input": [
            {"role": "developer", "content": "Use tools."},
            {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {"type": "function_call", "call_id": "c0", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c0", "output": "which town?"},
        ],
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "name": "weather"},
        "max_output_tokens": 50,
        "text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}},
    }
    response = client.responses.create(**request)
    [call] = response.output
    assert (call.type, call.call_id, call.name) == ("function_call", "call_1", "weather")
    assert json.loads(call.arguments) == {"town": "Bern"}
    sent = json.loads(front.worker.bodies[0])
    assert sent["messages"] == [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c0",
                    "type": "function",
                    "function": {"name": "weather", "arguments": "{}"},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c0", "content": "which town?"},
    ]
    function = {k: v for k, v in WEATHER.items() if k != "type"}
    assert sent["tools"] == [{"type": "function", "function": function}]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert sent["max_tokens"] == 50
    assert sent["response_format"]["json_schema"] == {"name": "s", "schema": {"type": "object"}}
    events = list(client.responses.create(**request, stream=True))
    assert [e.type for e in events][3:] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[-1].response.output[0].arguments == call.arguments


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, None),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"background": True, "store": False}, "store"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)) if value else "-",
)
def test_what_cannot_be_translated_is_a_400_that_names_the_field(
    idle_front: Any, fields: dict[str, Any], param: str | None
) -> None:
    body = {"model": idle_front.model, "input": "Hi"} | fields
    answer = idle_front.http.post("/v1/responses", json=body)
    assert answer.status_code == 400, answer.text
    if param is not None:
        assert answer.json()["error"]["param"] == param
    assert idle_front.http.get(f"/v1/queues/{idle_front.model}").json()["accepted"] == 0


def test_an_unknown_model_is_a_404(idle_front: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        idle_front.openai().responses.create(model="unknown", input="Hi")


def test_unknown_fields_reach_the_engine(front: Any) -> None:
    front.openai().responses.create(
        model=front.model, input="Hi", reasoning={"effort": "low"}, extra_body={"top_k": 4}
    )
    sent = json.loads(front.worker.bodies[0])
    assert (sent["top_k"], sent["reasoning_effort"]) == (4, "low")


def test_an_answer_that_is_cut_is_incomplete_with_a_reason(
    front: Any, delta_of: Callable[..., bytes]
) -> None:
    async def cut(claim: Claim) -> AsyncIterator[bytes | Outcome]:
        yield delta_of("Hel", finish="length")

    front.worker.script = cut
    client = front.openai()
    response = client.responses.create(model=front.model, input="Hi", max_output_tokens=1)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    events = list(client.responses.create(model=front.model, input="Hi", stream=True))
    assert events[-1].type == "response.incomplete"


def test_an_engines_refusal_is_returned_with_its_status_and_as_a_failed_event(front: Any) -> None:
    async def refuse(claim: Claim) -> AsyncIterator[bytes | Outcome]:
        answer = {"error": {"message": "too long", "type": "BadRequestError", "code": 400}}
        error = JobError(code="refused", message="too long", status=400, body=answer)
        yield Outcome(kind=OutcomeKind.ERROR, error=error)

    front.worker.script = refuse
    client = front.openai()
    with pytest.raises(openai.BadRequestError, match="too long"):
        client.responses.create(model=front.model, input="Hi")
    last = list(client.responses.create(model=front.model, input="Hi", stream=True))[-1]
    assert last.type == "response.failed"
    assert (last.response.error.code, last.response.error.message) == ("invalid_prompt", "too long")
    assert client.responses.retrieve(last.response.id).error == last.response.error


def test_a_conversation_continues_from_a_previous_response(front: Any) -> None:
    client = front.openai()
    first = client.responses.create(model=front.model, input="One", instructions="Only for one.")
    second = client.responses.create(model=front.model, input="Two", previous_response_id=first.id)
    client.responses.create(model=front.model, input="Three", previous_response_id=second.id)
    answer = {"role": "assistant", "content": "Hello, you"}
    assert json.loads(front.worker.bodies[-1])["messages"] == [
        {"role": "user", "content": "One"},
        answer,
        {"role": "user", "content": "Two"},
        answer,
        {"role": "user", "content": "Three"},
    ]
    assert second.previous_response_id == first.id


class Slow:
    """An engine that sends one word at each step of the test."""

    def __init__(self, delta_of: Callable[..., bytes]) -> None:
        self._delta_of = delta_of
        self._steps = threading.Semaphore(0)

    async def script(self, claim: Claim) -> AsyncIterator[bytes | Outcome]:
        for number in range(4):
            await eventually_async(lambda: self._steps.acquire(blocking=False), "the next step")
            yield self._delta_of(f"w{number} ", finish="stop" if number == 3 else None)

    def step(self, times: int = 1) -> None:
        self._steps.release(times)


@pytest.fixture
def slow(front: Any, delta_of: Callable[..., bytes]) -> Slow:
    made = Slow(delta_of)
    front.worker.script = made.script
    return made


def test_a_background_response_is_answered_at_once_and_read_later(
    front: Any, slow: Slow, until: Callable[..., Any]
) -> None:
    client = front.openai()
    response = client.responses.create(model=front.model, input="Hi", background=True)
    assert response.status in ("queued", "in_progress")
    assert response.background is True
    assert response.output == []
    slow.step(2)

    def partly() -> bool:
        now = client.responses.retrieve(response.id)
        return bool(now.status == "in_progress" and now.output_text == "w0 w1 ")

    until(partly, "a part of it can be read")
    slow.step(2)
    until(lambda: client.responses.retrieve(response.id).status == "completed", "it is done")
    assert client.responses.retrieve(response.id).output_text == "w0 w1 w2 w3 "


def test_a_dropped_background_stream_is_resumed_at_another_replica_without_a_gap(
    front: Any, make_front: Callable[..., Any], slow: Slow
) -> None:
    stream = front.openai().responses.create(
        model=front.model, input="Hi", background=True, stream=True
    )
    slow.step(2)
    seen: list[Any] = []
    for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta" and event.delta == "w1 ":
            break
    stream.close()
    slow.step(2)
    other = make_front().openai()
    rest = list(
        other.responses.retrieve(
            seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number
        )
    )
    events = seen + rest
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == (
        "w0 w1 w2 w3 "
    )
    assert events[-1].type == "response.completed"
    again = list(other.responses.retrieve(seen[0].response.id, stream=True))
    assert again == events


def test_a_stream_can_be_resumed_after_every_number(front: Any) -> None:
    client = front.openai()
    events = list(
        client.responses.create(model=front.model, input="Hi", background=True, stream=True)
    )
    for number in range(-1, len(events)):
        rest = client.responses.retrieve(events[0].response.id, stream=True, starting_after=number)
        assert list(rest) == events[number + 1 :]


def test_a_background_response_continues_when_its_client_disconnects_at_once(
    front: Any, slow: Slow, until: Callable[..., Any]
) -> None:
    client = front.openai()
    stream = client.responses.create(model=front.model, input="Hi", background=True, stream=True)
    own = next(iter(stream)).response.id
    stream.close()
    slow.step(4)
    until(lambda: client.responses.retrieve(own).status == "completed", "it is done")


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "plain"])
def test_a_foreground_client_that_disconnects_cancels_its_response(
    front: Any, slow: Slow, until: Callable[..., Any], stream: bool
) -> None:
    client = front.openai()
    if stream:
        answer = client.responses.create(model=front.model, input="Hi", stream=True)
        next(iter(answer))
        answer.close()
    else:
        with front.pending_request("/v1/responses", {"model": front.model, "input": "Hi"}):
            until(lambda: front.worker.bodies, "it is being answered")
    view = f"/v1/queues/{front.model}"
    until(lambda: front.http.get(view).json()["cancelled"] == 1, "its job is cancelled")


def test_cancelling_is_idempotent_and_ends_the_stream(
    front: Any, slow: Slow, until: Callable[..., Any]
) -> None:
    client = front.openai()
    stream = client.responses.create(model=front.model, input="Hi", background=True, stream=True)
    slow.step()
    events: list[Any] = []
    for event in stream:
        events.append(event)
        if event.type == "response.output_text.delta":
            own = events[0].response.id
            assert client.responses.cancel(own).status == "cancelled"
    assert events[-1].type == "response.cancelled"
    assert client.responses.cancel(own).status == "cancelled"
    assert client.responses.retrieve(own).status == "cancelled"
    assert client.responses.retrieve(own).output_text == "w0 "
    until(lambda: front.worker.aborted, "the engine was stopped")


def test_a_queued_response_is_cancelled_before_it_starts(idle_front: Any) -> None:
    client = idle_front.openai()
    response = client.responses.create(model=idle_front.model, input="Hi", background=True)
    assert response.status == "queued"
    assert client.responses.cancel(response.id).status == "cancelled"
    events = list(client.responses.retrieve(response.id, stream=True))
    assert [e.type for e in events] == [
        "response.created",
        "response.queued",
        "response.cancelled",
    ]


def test_cancelling_a_finished_response_does_not_change_it(
    front: Any, until: Callable[..., Any]
) -> None:
    client = front.openai()
    response = client.responses.create(model=front.model, input="Hi", background=True)
    until(lambda: client.responses.retrieve(response.id).status == "completed", "it is done")
    assert client.responses.cancel(response.id).status == "completed"


def test_only_background_responses_can_be_cancelled(front: Any) -> None:
    client = front.openai()
    response = client.responses.create(model=front.model, input="Hi")
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(response.id)


def test_a_deleted_response_is_gone_and_its_job_cancelled(idle_front: Any) -> None:
    client = idle_front.openai()
    response = client.responses.create(model=idle_front.model, input="Hi", background=True)
    client.responses.delete(response.id)
    for call in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError, match="no such response"):
            call(response.id)
    assert idle_front.http.get(f"/v1/queues/{idle_front.model}").json()["depth"] == 0


def test_a_response_that_is_not_stored_cannot_be_retrieved(front: Any) -> None:
    client = front.openai()
    response = client.responses.create(model=front.model, input="Hi", store=False)
    assert response.output_text == "Hello, you"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_repeated_requests_with_one_idempotency_key_are_one_response(idle_front: Any) -> None:
    client = idle_front.openai()
    headers = {"Idempotency-Key": "k1"}
    made = [
        client.responses.create(
            model=idle_front.model, input="Hi", background=True, extra_headers=headers
        ).id
        for _ in range(2)
    ]
    assert made[0] == made[1]
    assert idle_front.http.get(f"/v1/queues/{idle_front.model}").json()["depth"] == 1


def test_the_input_can_be_listed(idle_front: Any) -> None:
    client = idle_front.openai()
    items: Any = [{"role": "user", "content": f"q{i}"} for i in range(3)]
    response = client.responses.create(model=idle_front.model, input=items, background=True)
    listed = list(client.responses.input_items.list(response.id, order="asc", limit=2))
    assert [item.content for item in listed] == ["q0", "q1", "q2"]


@pytest.mark.slow
def test_a_worker_that_is_lost_during_an_answer_leaves_no_gap_and_no_repeat(
    front: Any, delta_of: Callable[..., bytes]
) -> None:
    async def twice(claim: Claim) -> AsyncIterator[bytes | Outcome]:
        yield delta_of("", role="assistant")
        for word in ("Hel", "lo", ", you"):
            if claim.lease.attempt == 1 and word == ", you":
                yield Outcome(kind=OutcomeKind.RETRY, error=JobError(code="lost", message="lost"))
            yield delta_of(word)
        yield delta_of(finish="stop")

    front.worker.script = twice
    client = front.openai()
    events = list(client.responses.create(model=front.model, input="Hi", stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert deltas == ["Hel", "lo", ", you"]
    assert events[-1].response.output_text == "Hello, you"


def differing_attempts(
    delta_of: Callable[..., bytes],
) -> Callable[[Claim], AsyncIterator[bytes | Outcome]]:
    """The first attempt is lost, and the second has other words."""

    async def differs(claim: Claim) -> AsyncIterator[bytes | Outcome]:
        yield delta_of(f"attempt {claim.lease.attempt}")
        if claim.lease.attempt == 1:
            yield Outcome(kind=OutcomeKind.RETRY, error=JobError(code="lost", message="lost"))
        yield delta_of(finish="stop")

    return differs


@pytest.mark.slow
def test_a_new_attempt_that_differs_ends_the_stream_with_an_error(
    front: Any, delta_of: Callable[..., bytes]
) -> None:
    front.worker.script = differing_attempts(delta_of)
    client = front.openai()
    events = list(client.responses.create(model=front.model, input="Hi", stream=True))
    assert (events[-1].type, events[-1].code) == ("error", "attempt_restarted")
    whole = client.responses.retrieve(events[0].response.id)
    assert whole.output_text == "attempt 2"  # the answer itself is not lost


@pytest.mark.slow
def test_a_stream_that_starts_after_a_restart_has_the_answer_of_the_last_attempt(
    front: Any, delta_of: Callable[..., bytes]
) -> None:
    # The stream that is open when the attempt restarts ends with an error, rightly. Each repetition
    # under the same key ended so too, and each new reader, for ever: the words of the first attempt
    # came first, although the new client had nothing that the second could contradict.
    front.worker.script = differing_attempts(delta_of)
    client = front.openai()
    headers = {"Idempotency-Key": "k1"}

    def create() -> list[Any]:
        return list(
            client.responses.create(
                model=front.model, input="Hi", stream=True, extra_headers=headers
            )
        )

    assert create()[-1].code == "attempt_restarted"
    again = create()
    read = list(client.responses.retrieve(again[0].response.id, stream=True))
    for events in (again, read):
        assert events[-1].response.output_text == "attempt 2"
        assert [e.sequence_number for e in events] == list(range(len(events)))
        assert [e.delta for e in events if e.type == "response.output_text.delta"] == ["attempt 2"]


def test_another_tenants_response_is_not_found(
    idle_front: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = idle_front.openai()
    response = client.responses.create(model=idle_front.model, input="Hi", background=True)
    monkeypatch.setattr(routes, "tenant_of", lambda request: Tenant(name="another"))
    for call in (
        client.responses.retrieve,
        client.responses.cancel,
        client.responses.delete,
        client.responses.input_items.list,
    ):
        with pytest.raises(openai.NotFoundError):
            call(response.id)
    with pytest.raises(openai.BadRequestError):
        client.responses.create(
            model=idle_front.model, input="Hi", previous_response_id=response.id
        )


def test_a_record_expires_with_its_job(idle_front: Any) -> None:
    response = idle_front.openai().responses.create(
        model=idle_front.model, input="Hi", background=True
    )
    with redis.Redis.from_url(idle_front.redis_url) as client:
        [key] = client.keys("lw:responses:*")
        assert response.id in key.decode()
        assert 3_600_000 < client.pttl(key) < 2 * 3_600_000
