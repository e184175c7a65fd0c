"""langchain-openai."""

from __future__ import annotations

import openai
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from scenarios import SCRIPTED, SIMULATED, main, raises, scenario

llm = ChatOpenAI(model=SCRIPTED)


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


@scenario
def chat() -> None:
    done = llm.invoke("Hello there")
    assert done.content == "You said: Hello there"
    assert done.usage_metadata["total_tokens"] == 18


@scenario
def chat_stream() -> None:
    chunks = list(llm.stream("Hello there"))
    assert "".join(chunk.text for chunk in chunks) == "You said: Hello there"
    assert len(chunks) > 3


@scenario
async def asynchronous() -> None:
    done = await llm.abatch(["one", "two", "three"])
    assert [one.content for one in done] == ["You said: one", "You said: two", "You said: three"]


@scenario
def tools() -> None:
    done = llm.bind_tools([weather]).invoke("Hello")
    [call] = done.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Paris"})
    more = llm.bind_tools([weather]).invoke(["Hello", done, weather.invoke(call)])
    assert more.content == "You said: sunny in Paris"


@scenario
def structured_output() -> None:
    for method in ("json_schema", "function_calling", "json_mode"):
        if method == "json_mode":
            found = llm.with_structured_output(None, method=method).invoke("Hello, as JSON")
            assert found == {"name": "Ada"}
        else:
            found = llm.with_structured_output(Person, method=method).invoke("Hello")
            assert found == Person(name="Ada", age=36)


@scenario
def responses_api() -> None:
    own = ChatOpenAI(model=SCRIPTED, use_responses_api=True)
    assert own.invoke("Hello there").text == "You said: Hello there"
    assert "".join(chunk.text for chunk in own.stream("Hello there")) == "You said: Hello there"
    [call] = own.bind_tools([weather]).invoke("Hello").tool_calls
    assert call["args"] == {"city": "Paris"}


@scenario
def completions() -> None:
    assert OpenAI(model=SIMULATED, max_tokens=6).invoke("Once upon")


@scenario
def errors() -> None:
    raises(openai.NotFoundError, lambda: ChatOpenAI(model="none").invoke("Hello"))
    raises(openai.BadRequestError, lambda: llm.invoke("refuse me"))


@scenario
def embeddings_are_refused() -> None:
    embeddings = OpenAIEmbeddings(model=SCRIPTED, check_embedding_ctx_length=False)
    raises(openai.NotFoundError, lambda: embeddings.embed_query("Hello"))


if __name__ == "__main__":
    main()
