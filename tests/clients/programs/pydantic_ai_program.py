"""Pydantic AI."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from scenarios import SCRIPTED, main, raises, scenario

model = OpenAIChatModel(SCRIPTED)


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@scenario
def chat() -> None:
    done = Agent(model, instructions="Be brief").run_sync("Hello there")
    assert done.output == "You said: Hello there"


@scenario
async def chat_stream() -> None:
    async with Agent(model).run_stream("Hello there") as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True)]
    assert "".join(pieces) == "You said: Hello there"


@scenario
def structured_output() -> None:
    assert Agent(model, output_type=Person).run_sync("Hello").output == Person(name="Ada", age=36)
    native = Agent(model, output_type=NativeOutput(Person))
    assert native.run_sync("Hello").output == Person(name="Ada", age=36)


@scenario
def tools() -> None:
    agent = Agent(model)
    asked = []

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "sunny"

    assert agent.run_sync("Hello").output == "You said: sunny"
    assert asked == ["Paris"]


@scenario
def responses_api() -> None:
    agent = Agent(OpenAIResponsesModel(SCRIPTED), instructions="Be brief")
    first = agent.run_sync("Hello there")
    assert first.output == "You said: Hello there"
    more = agent.run_sync("And again", message_history=first.all_messages())
    assert more.output == "You said: And again"
    structured = Agent(OpenAIResponsesModel(SCRIPTED), output_type=Person)
    assert structured.run_sync("Hello").output == Person(name="Ada", age=36)


@scenario
def errors() -> None:
    missing = raises(ModelHTTPError, lambda: Agent(OpenAIChatModel("none")).run_sync("Hello"))
    assert missing.status_code == 404


if __name__ == "__main__":
    main()
