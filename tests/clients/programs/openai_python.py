"""The official Python client, of any major."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.request

import openai
from pydantic import BaseModel
from scenarios import MESSAGES, SCRIPTED, SIMULATED, URL, main, raises, scenario

client = openai.OpenAI(timeout=60)

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Person(BaseModel):
    name: str
    age: int


@scenario
def models() -> None:
    names = {model.id for model in client.models.list()}
    assert {SCRIPTED, SIMULATED} <= names
    assert client.models.retrieve(SCRIPTED).id == SCRIPTED
    assert raises(openai.NotFoundError, lambda: client.models.retrieve("none"))


@scenario
def chat() -> None:
    done = client.chat.completions.create(model=SCRIPTED, messages=MESSAGES)
    assert done.choices[0].message.content == "You said: Hello there"
    assert done.usage.total_tokens == 18
    assert done._request_id
    long = client.chat.completions.create(model=SIMULATED, messages=MESSAGES, max_tokens=12)
    assert 0 < long.usage.completion_tokens <= 12


@scenario
def chat_with_images_and_odd_fields() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    done = client.chat.completions.create(
        model=SCRIPTED,
        messages=[{"role": "system", "content": "Be brief"}, {"role": "user", "content": parts}],
        temperature=0.1,
        top_p=0.9,
        seed=7,
        stop=["END"],
        metadata={"a": "b"},
        user="me",
        extra_body={"top_k": 5},
    )
    assert "What is this?" in done.choices[0].message.content


@scenario
def chat_stream() -> None:
    text, usage = "", None
    with client.chat.completions.create(
        model=SCRIPTED, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    ) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == "You said: Hello there"
    assert usage.total_tokens == 18


@scenario
def chat_stream_that_is_given_up() -> None:
    for chunk in client.chat.completions.create(model=SIMULATED, messages=MESSAGES, stream=True):
        assert chunk.id
        break


@scenario
def chat_stream_helper() -> None:
    with client.chat.completions.stream(model=SCRIPTED, messages=MESSAGES, tools=[TOOL]) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    assert json.loads(final.choices[0].message.tool_calls[0].function.arguments) == {
        "city": "Paris"
    }


@scenario
def tools() -> None:
    done = client.chat.completions.create(model=SCRIPTED, messages=MESSAGES, tools=[TOOL])
    assert done.choices[0].finish_reason == "tool_calls"
    message = done.choices[0].message
    [call] = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "weather",
        {"city": "Paris"},
    )
    answer = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    more = client.chat.completions.create(
        model=SCRIPTED, messages=[*MESSAGES, message, answer], tools=[TOOL]
    )
    assert more.choices[0].message.content == "You said: sunny"


@scenario
def structured_output() -> None:
    done = client.chat.completions.parse(model=SCRIPTED, messages=MESSAGES, response_format=Person)
    assert done.choices[0].message.parsed == Person(name="Ada", age=36)


@scenario
def completions() -> None:
    done = client.completions.create(model=SIMULATED, prompt="Once upon", max_tokens=8)
    assert done.choices[0].text
    text = "".join(
        chunk.choices[0].text
        for chunk in client.completions.create(
            model=SIMULATED, prompt="Once upon", max_tokens=8, stream=True
        )
        if chunk.choices
    )
    assert text


@scenario
def responses() -> None:
    first = client.responses.create(model=SCRIPTED, input="Hello there", instructions="Be brief")
    assert first.output_text == "You said: Hello there"
    assert first.usage.total_tokens == 18
    second = client.responses.create(
        model=SCRIPTED, input="And again", previous_response_id=first.id
    )
    assert second.output_text == "You said: And again"
    assert client.responses.retrieve(first.id).output_text == first.output_text
    assert [item.type for item in client.responses.input_items.list(second.id)]
    client.responses.delete(first.id)
    assert raises(openai.NotFoundError, lambda: client.responses.retrieve(first.id))


@scenario
def responses_stream() -> None:
    with client.responses.stream(model=SCRIPTED, input="Hello there") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text == "You said: Hello there"


@scenario
def responses_tools_and_structured_output() -> None:
    tool = {"type": "function", "strict": False} | TOOL["function"]
    done = client.responses.create(model=SCRIPTED, input="Hello", tools=[tool])
    [call] = [item for item in done.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"city": "Paris"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    more = client.responses.create(
        model=SCRIPTED, input=[result], previous_response_id=done.id, tools=[tool]
    )
    assert more.output_text == "You said: sunny"
    parsed = client.responses.parse(model=SCRIPTED, input="Hello", text_format=Person)
    assert parsed.output_parsed == Person(name="Ada", age=36)


@scenario
def responses_in_the_background() -> None:
    made = client.responses.create(model=SCRIPTED, input="Hello", background=True)
    ends = time.monotonic() + 30
    while made.status in ("queued", "in_progress"):
        assert time.monotonic() < ends
        made = client.responses.retrieve(made.id)
        time.sleep(0.05)
    assert made.output_text == "You said: Hello"


@scenario
def errors() -> None:
    def ask(**fields: object) -> object:
        body = {"model": SCRIPTED, "messages": MESSAGES} | fields
        return client.chat.completions.create(**body)

    missing = raises(openai.NotFoundError, lambda: ask(model="none"))
    assert missing.code == "model_not_found"
    raises(openai.BadRequestError, lambda: ask(messages=[]))
    wrong = raises(openai.BadRequestError, lambda: ask(messages="Hello"))
    assert wrong.param == "messages"
    refused = raises(
        openai.BadRequestError, lambda: ask(messages=[{"role": "user", "content": "refuse me"}])
    )
    assert "no such thing" in str(refused)
    refused = raises(
        openai.BadRequestError,
        lambda: list(ask(messages=[{"role": "user", "content": "refuse me"}], stream=True)),
    )
    assert "no such thing" in str(refused)


@scenario
def embeddings_are_refused() -> None:
    refused = raises(
        openai.NotFoundError, lambda: client.embeddings.create(model=SCRIPTED, input="Hello")
    )
    assert "embeddings" in str(refused)


@scenario
def a_refusal_is_retried() -> None:
    # While a queue drains, a request is a 503 with Retry-After, which the client obeys.
    def post(command: str) -> None:
        url = f"{URL}/queues/{SIMULATED}/{command}"
        request = urllib.request.Request(url, method="POST")  # noqa: S310 - http
        urllib.request.urlopen(request).close()  # noqa: S310

    post("drain")
    again = threading.Timer(1.0, post, ["resume"])
    again.start()
    try:
        patient = client.with_options(max_retries=20)
        done = patient.chat.completions.create(model=SIMULATED, messages=MESSAGES, max_tokens=3)
        assert done.choices[0].message.content
    finally:
        again.join()


@scenario
def a_timeout_is_the_clients() -> None:
    hurried = client.with_options(timeout=0.3, max_retries=0)
    raises(
        openai.APITimeoutError,
        lambda: hurried.chat.completions.create(
            model=SIMULATED, messages=MESSAGES, extra_body={"vllm_xargs": {"output_tokens": 2000}}
        ),
    )


@scenario
async def many_at_once() -> None:
    async with openai.AsyncOpenAI(timeout=60) as many:
        answers = await asyncio.gather(
            *(
                many.chat.completions.create(
                    model=SIMULATED,
                    messages=[{"role": "user", "content": f"question {n}"}],
                    max_tokens=5,
                )
                for n in range(20)
            )
        )
    assert len({answer.id for answer in answers}) == 20


def _batch_line(name: str, content: str) -> str:
    body = {"model": SCRIPTED, "messages": [{"role": "user", "content": content}]}
    line = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line)


@scenario
def batches() -> None:
    content = "\n".join([_batch_line("one", "first"), _batch_line("two", "refuse me")])
    file = client.files.create(file=("in.jsonl", content.encode()), purpose="batch")
    assert file.id in {one.id for one in client.files.list()}
    made = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"what": "test"},
    )
    ends = time.monotonic() + 30
    while made.status not in ("completed", "failed"):
        assert time.monotonic() < ends, made
        made = client.batches.retrieve(made.id)
        time.sleep(0.05)
    assert (made.request_counts.completed, made.request_counts.failed) == (1, 1)
    [line] = client.files.content(made.output_file_id).text.splitlines()
    answer = json.loads(line)["response"]["body"]["choices"][0]["message"]["content"]
    assert answer == "You said: first"
    [line] = client.files.content(made.error_file_id).text.splitlines()
    assert json.loads(line)["response"]["status_code"] == 400
    assert made.id in {one.id for one in client.batches.list(limit=5)}
    assert client.batches.cancel(made.id).status == "completed"
    assert client.files.delete(file.id).deleted


if __name__ == "__main__":
    main()
