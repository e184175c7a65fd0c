"""LlamaIndex, by its client for endpoints like OpenAI's."""

from __future__ import annotations

import openai
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from scenarios import SCRIPTED, SIMULATED, URL, main, raises, scenario

llm = OpenAILike(
    model=SCRIPTED,
    api_base=URL,
    api_key="any",
    is_chat_model=True,
    is_function_calling_model=True,
    context_window=4096,
)


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


@scenario
def chat() -> None:
    assert llm.chat([ChatMessage("Hello there")]).message.content == "You said: Hello there"
    assert llm.complete("Hello there").text == "You said: Hello there"


@scenario
def chat_stream() -> None:
    chunks = list(llm.stream_chat([ChatMessage("Hello there")]))
    assert "".join(chunk.delta or "" for chunk in chunks) == "You said: Hello there"


@scenario
async def asynchronous() -> None:
    assert (await llm.acomplete("Hello")).text == "You said: Hello"
    text = ""
    async for chunk in await llm.astream_complete("Hello"):
        text += chunk.delta or ""
    assert text == "You said: Hello"


@scenario
def tools() -> None:
    tool = FunctionTool.from_defaults(weather)
    done = llm.chat_with_tools([tool], user_msg="Hello")
    [call] = llm.get_tool_calls_from_response(done)
    assert (call.tool_name, call.tool_kwargs) == ("weather", {"city": "Paris"})
    assert llm.predict_and_call([tool], "Hello").response == "sunny in Paris"


@scenario
def structured_output() -> None:
    found = llm.as_structured_llm(Person).complete("Hello").raw
    assert found == Person(name="Ada", age=36)


@scenario
def completions() -> None:
    plain = OpenAILike(
        model=SIMULATED, api_base=URL, api_key="any", is_chat_model=False, max_tokens=6
    )
    assert plain.complete("Once upon").text


@scenario
def errors() -> None:
    wrong = OpenAILike(model="none", api_base=URL, api_key="any", is_chat_model=True, max_retries=0)
    raises(openai.NotFoundError, lambda: wrong.complete("Hello"))


if __name__ == "__main__":
    main()
