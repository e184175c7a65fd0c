"""The SDK of LiteLLM."""

from __future__ import annotations

import json

import litellm
from pydantic import BaseModel
from scenarios import MESSAGES, SCRIPTED, SIMULATED, URL, main, raises, scenario

MODEL = {"model": f"openai/{SCRIPTED}", "api_base": URL, "api_key": "any"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Person(BaseModel):
    name: str
    age: int


@scenario
def chat() -> None:
    done = litellm.completion(messages=MESSAGES, **MODEL)
    assert done.choices[0].message.content == "You said: Hello there"
    assert done.usage.total_tokens == 18


@scenario
def chat_by_the_provider_for_vllm() -> None:
    done = litellm.completion(messages=MESSAGES, **MODEL | {"model": f"hosted_vllm/{SCRIPTED}"})
    assert done.choices[0].message.content == "You said: Hello there"


@scenario
def chat_stream() -> None:
    stream = litellm.completion(
        messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **MODEL
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "You said: Hello there"
    assert litellm.stream_chunk_builder(chunks).usage.total_tokens == 18


@scenario
async def asynchronous() -> None:
    done = await litellm.acompletion(messages=MESSAGES, **MODEL)
    assert done.choices[0].message.content == "You said: Hello there"


@scenario
def tools() -> None:
    done = litellm.completion(messages=MESSAGES, tools=[TOOL], **MODEL)
    [call] = done.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}


@scenario
def structured_output() -> None:
    done = litellm.completion(messages=MESSAGES, response_format=Person, **MODEL)
    assert Person.model_validate_json(done.choices[0].message.content).age == 36


@scenario
def responses_api() -> None:
    done = litellm.responses(input="Hello there", **MODEL)
    assert done.output[0].content[0].text == "You said: Hello there"


@scenario
def completions() -> None:
    done = litellm.text_completion(
        prompt="Once upon", max_tokens=6, **MODEL | {"model": f"text-completion-openai/{SIMULATED}"}
    )
    assert done.choices[0].text


@scenario
def errors() -> None:
    raises(
        litellm.NotFoundError,
        lambda: litellm.completion(messages=MESSAGES, **MODEL | {"model": "openai/none"}),
    )
    refused = [{"role": "user", "content": "refuse me"}]
    raises(litellm.BadRequestError, lambda: litellm.completion(messages=refused, **MODEL))


@scenario
def embeddings_are_refused() -> None:
    raises(litellm.NotFoundError, lambda: litellm.embedding(input=["Hello"], **MODEL))


if __name__ == "__main__":
    main()
