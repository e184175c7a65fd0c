"""`lengthwise submit`: submit a job, print its prediction, stream its answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from lengthwise_cli.errors import BadUsage, CliError
from lengthwise_contract.explanation import Explanation
from lengthwise_contract.jobs import JobRequest
from lengthwise_lab.loadtest.client import ServiceClient, error_message
from lengthwise_lab.loadtest.workload import FIXED_SAMPLING, read_bodies
from lengthwise_lab.server_sent_events import read_events

#: How often a broken stream is resumed, and the pause before it, seconds.
RECONNECTS, RECONNECT_PAUSE_S = 60, 0.5

Url = Annotated[str, typer.Option(envvar="LENGTHWISE_URL", help="URL of the queue service.")]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="LENGTHWISE_API_KEY", help="Your API key; set it by environment."),
]
Model = Annotated[str | None, typer.Option(help="The model that answers. Default: the only one.")]


def submit(
    text: Annotated[str | None, typer.Argument(help="The prompt.")] = None,
    url: Url = "http://127.0.0.1:8080",
    api_key: ApiKey = None,
    model: Model = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, tokens. Default: the engine's.")
    ] = None,
    job_class: Annotated[
        str, typer.Option("--class", help="Class of the job; the queue defines them.")
    ] = "interactive",
    file: Annotated[
        Path | None,
        typer.Option(help="JSONL with `prompt` or `messages`: a job for each line; does not wait."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Stream the answer.")] = True,
) -> None:
    """Submit a job; print its prediction, position and answer."""
    if (text is None) == (file is None):
        raise BadUsage('give either a prompt, as in `lengthwise submit "Say hello."`, or --file')
    bodies: list[dict[str, Any]]
    if file is not None:
        bodies = [
            {key: value for key, value in body.items() if key not in FIXED_SAMPLING}
            for _, body in read_bodies(file, max_tokens=max_tokens)
        ]
    else:
        bodies = [{"messages": [{"role": "user", "content": text}]}]
        if max_tokens is not None:
            bodies[0]["max_tokens"] = max_tokens
    service = ServiceClient(url, api_key=api_key)
    asyncio.run(_submit(service, model, bodies, job_class, wait=wait and file is None))


async def _submit(
    service: ServiceClient,
    model: str | None,
    bodies: list[dict[str, Any]],
    job_class: str,
    *,
    wait: bool,
) -> None:
    note = Console(stderr=True, style="dim", highlight=False, soft_wrap=True)
    async with service:
        chosen = await service.only_model(model)
        for body in bodies:
            request = JobRequest.model_validate(
                {"body": {**body, "model": chosen}, "class": job_class}
            )
            job = await service.submit(request)
            note.print(f"job {job.id}: {describe(await service.explain(job.id))}", markup=False)
            if not wait:
                Console(highlight=False).print(job.id, markup=False)
            else:
                await _Reader(service, note).follow(job.id)


def describe(why: Explanation) -> str:
    """Describe a job's predicted length and its position in a few words."""
    if why.prediction is None:
        expected = f"no prediction in time, {why.predicted_tokens:.0f} tokens assumed"
    else:
        likely = why.calibrated or why.prediction  # the job is priced by the calibrated ones
        low, high = likely.p10_tokens, likely.p90_tokens
        if why.predicted_tokens < likely.p50_tokens:  # the request's max_tokens is lower
            low, high = min(low, why.predicted_tokens), why.predicted_tokens
        expected = f"predicted {why.predicted_tokens:.0f} tokens ({low:.0f} to {high:.0f} likely)"
    if why.position is None:
        return f"{expected}; {why.state}"
    place = f"{expected}; {why.position} ahead"
    if why.mode == "paused":
        return f"{place}; nothing starts: POST /v1/queues/{why.queue}/resume"
    if why.estimated_start_ms is None:
        return f"{place}; nothing starts: no worker serves {why.queue}, start one"
    return place


class _Reader:
    """Print a job's stream and resume it where it broke off, so that no token is lost."""

    def __init__(self, service: ServiceClient, note: Console) -> None:
        self._service = service
        self._note = note
        self._last_id: str | None = None
        self._printed = False

    async def follow(self, job_id: str) -> None:
        """Print the answer until it ends.

        Raises:
            CliError: The job did not succeed, or the service is unreachable.
        """
        path = f"/v1/jobs/{job_id}/stream"
        for _ in range(RECONNECTS):
            headers = {} if self._last_id is None else {"Last-Event-ID": self._last_id}
            try:
                async with self._service.stream(path, headers) as response:
                    if response.is_error:
                        await response.aread()
                        raise CliError(error_message(response))
                    if await self._print_events(response):
                        return
            except httpx.TransportError:
                self._note.print("the connection broke; resuming the stream", markup=False)
            await asyncio.sleep(RECONNECT_PAUSE_S)
        raise CliError(f"the queue service is unreachable; GET {path} resumes the answer later")

    async def _print_events(self, response: httpx.Response) -> bool:
        """Print events; return whether the stream ended."""
        async for event in read_events(response):
            self._last_id = event.id or self._last_id
            if self._print_event(event.event, event.data):
                return True
        return False

    def _print_event(self, name: str, data: str) -> bool:
        """Print one event; return whether it is the last."""
        if data == "[DONE]":
            self._end_line()
            return True
        event = json.loads(data)
        if name == "attempt":
            if self._printed:  # otherwise there is nothing to repeat
                self._end_line()
                self._note.print("another attempt: the answer starts again", markup=False)
        elif name == "end":
            self._end_line()
            self._ended(event)
            return True
        else:
            text = text_of(event)
            typer.echo(text, nl=False)
            self._printed = self._printed or bool(text)
        return False

    def _end_line(self) -> None:
        if self._printed:
            typer.echo()
        self._printed = False

    def _ended(self, end: dict[str, Any]) -> None:
        if end.get("state") != "succeeded":
            error = end.get("error") or {}
            raise CliError(f"the job {end.get('state')}: {error.get('message', 'no reason given')}")
        self._note.print(f"{end.get('output_tokens')} tokens", markup=False)


def text_of(event: dict[str, Any]) -> str:
    """The text in one chunk of an OpenAI stream, or in a whole response."""
    parts = []
    for choice in event.get("choices") or []:
        part = choice.get("delta") or choice.get("message") or {}
        parts.append(part.get("content") or choice.get("text") or "")
    return "".join(parts)
