"""`lengthwise up`: the whole of Lengthwise on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from lengthwise_cli.errors import BadUsage
from lengthwise_cli.local.settings import StackEngine, StackSettings, WorkerBatching
from lengthwise_cli.local.stack import Stack


def up(
    engine: Annotated[
        StackEngine, typer.Option(help="The engine that answers.")
    ] = StackEngine.LLAMA_CPP,
    engine_url: Annotated[
        str | None, typer.Option(help="URL of a running engine, e.g. http://host:8000.")
    ] = None,
    engine_api_key: Annotated[
        str | None, typer.Option(help="The engine's API key; set it by environment.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name of the model. Default: smollm2, or the engine's.")
    ] = None,
    model_path: Annotated[
        Path | None, typer.Option(help="A GGUF file for llama.cpp. Default: SmolLM2 135M.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="The model's tokenizer.json, to count prompt tokens."
        ),
    ] = None,
    context_tokens: Annotated[
        int, typer.Option(min=64, help="llama.cpp: context of each slot, tokens.")
    ] = StackSettings.context_tokens,
    slots: Annotated[
        int, typer.Option(min=1, max=4096, help="Requests that the engine runs at once.")
    ] = StackSettings.slots,
    batching: Annotated[
        WorkerBatching, typer.Option(help="How the worker fills the engine.")
    ] = StackSettings.batching,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = StackSettings.host,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port to listen on.")
    ] = StackSettings.port,
    redis_url: Annotated[
        str | None, typer.Option(help="Use this Redis or Valkey. Default: an embedded one.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="LENGTHWISE_API_KEY",
            help="An admin's key, if the queue service requires keys; set it by environment.",
        ),
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(help="Folder for the embedded Valkey's data and the logs.")
    ] = Path(".lengthwise"),
    policy: Annotated[
        Literal["sjf", "fcfs", "shadow"] | None,
        typer.Option(help="Order of service. Default: the queue's setting."),
    ] = None,
    overtake_factor: Annotated[
        float | None,
        typer.Option(min=0, max=1000, help="Overtake factor k. Default: the queue's setting."),
    ] = None,
    overtake_wait_factor: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            help="A job may also be overtaken for this many times the wait that it found; 0: k "
            "alone. Default: the queue's setting.",
        ),
    ] = None,
    predictor_timeout_ms: Annotated[
        float, typer.Option(min=1, max=10_000, help="Longest wait for a prediction, ms.")
    ] = StackSettings.predictor_timeout_ms,
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], typer.Option(help="Level of the log files.")
    ] = "INFO",
) -> None:
    """Start the whole of Lengthwise on this machine."""
    settings = StackSettings(
        data_dir=data_dir,
        engine=engine,
        engine_url=engine_url,
        engine_api_key=engine_api_key,
        model=model,
        model_path=model_path,
        tokenizer=tokenizer,
        context_tokens=context_tokens,
        slots=slots,
        batching=batching,
        host=host,
        port=port,
        redis_url=redis_url,
        api_key=api_key,
        policy=policy,
        overtake_factor=overtake_factor,
        overtake_wait_factor=overtake_wait_factor,
        predictor_timeout_ms=predictor_timeout_ms,
        log_level=log_level,
    )
    asyncio.run(_serve(settings))


async def _serve(settings: StackSettings) -> None:
    console = Console(highlight=False, soft_wrap=True)
    loop = asyncio.get_running_loop()
    stop_requested = asyncio.Event()
    serving = asyncio.create_task(_until(stop_requested, settings, console))

    def on_signal() -> None:
        if stop_requested.is_set():
            console.print("still stopping; processes that do not stop in time are killed")
            return
        stop_requested.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    await serving


async def _until(stop: asyncio.Event, settings: StackSettings, console: Console) -> None:
    """Serve until `stop` is set, which may also be while the stack is starting."""
    stack = Stack(settings, notify=lambda line: console.print(line, markup=False))
    starting = asyncio.create_task(stack.start())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting  # raises the error, if there is one
            console.print(welcome(stack), markup=False)
            await stop.wait()
        console.print("stopping: the worker first, so that running answers can end ...")
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        await stack.stop()
    console.print("stopped")


def _engine_line(stack: Stack) -> str:
    """The command that measures what the queue adds, if other programs may call the engine."""
    if stack.settings.engine is StackEngine.LLAMA_CPP and stack.settings.engine_api_key is None:
        return ""
    return (
        f"  lengthwise bench serve --url {stack.url} --engine-url {stack.engine_url}"
        "     what the queue adds\n"
    )


def _simulation_note(settings: StackSettings) -> str:
    """What to know about answers that no model gives."""
    if settings.engine is not StackEngine.SIMULATED:
        return ""
    return (
        "The answers are random words, and their number has nothing to do with the prompt: so\n"
        "predictions mean nothing here, and neither does the order of the answers.\n\n"
    )


def welcome(stack: Stack) -> str:
    """Return the message after the start: curl, the openai client, other commands."""
    if not stack.model:
        raise BadUsage("the stack is not started")
    note = _simulation_note(stack.settings)
    return f"""
Lengthwise serves {stack.model} at {stack.url}

{note}  curl {stack.url}/v1/chat/completions -H 'Content-Type: application/json' -d '
    {{"model": "{stack.model}", "messages": [{{"role": "user", "content": "Say hello."}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{stack.url}/v1", api_key="none")
  answer = client.chat.completions.create(
      model="{stack.model}", messages=[{{"role": "user", "content": "Say hello."}}])
  print(answer.choices[0].message.content)

  lengthwise top --url {stack.url}          the queue, live
  lengthwise submit "..." --url {stack.url}
{_engine_line(stack)}
Logs and data: {stack.settings.data_dir.resolve()}. Ctrl-C stops everything.
"""
