"""Send a workload to an OpenAI endpoint at its scheduled times, and measure every answer.

An open loop: a request is sent at its time whether or not earlier ones are answered. Its times
count from then, even if this process sent it late. Called by compare.py, sweep.py and overhead.py.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx

from lengthwise_lab.errors import ServiceError
from lengthwise_lab.loadtest.client import ServiceClient, error_message, root_of
from lengthwise_lab.loadtest.measures import Sample
from lengthwise_lab.loadtest.workload import TimedRequest
from lengthwise_lab.server_sent_events import read_events

#: The queue service returns the job id of an OpenAI request in this header.
JOB_ID_HEADER = "x-lengthwise-job-id"
#: How many jobs `look_up` requests at once.
_LOOKUPS = 8


@dataclass(frozen=True, kw_only=True)
class LoadTarget:
    """An OpenAI endpoint: its root URL, the model, and the timeout of a request, s."""

    url: str
    model: str
    timeout_s: float = 600.0
    api_key: str | None = None

    def client(self) -> httpx.AsyncClient:
        """Return a client without a limit of connections, which would close the loop."""
        return httpx.AsyncClient(
            base_url=root_of(self.url),
            timeout=self.timeout_s,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            headers={"Authorization": f"Bearer {self.api_key}"} if self.api_key else {},
        )


async def drive(
    target: LoadTarget,
    requests: Sequence[TimedRequest],
    *,
    on_done: Callable[[Sample], None],
    on_start: Callable[[int], None] | None = None,
) -> list[Sample]:
    """Send all requests at their times. Return their samples in the order of the requests.

    The sample of a failed request has `error` set. Nothing is raised for it, and it is not retried.

    Args:
        target: The endpoint.
        requests: The workload.
        on_done: Called with each sample when its request ends, for a progress bar.
        on_start: Called with a request's index at its first token.
    """
    async with target.client() as http:
        start_s = time.monotonic()

        async def send_on_time(request: TimedRequest) -> Sample:
            await asyncio.sleep(start_s + request.due_to_send_s - time.monotonic())
            due_s = start_s + request.due_to_send_s
            sample = await send(http, target.model, request, due_s=due_s, on_start=on_start)
            on_done(sample)
            return sample

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(send_on_time(request)) for request in requests]
    return [task.result() for task in tasks]


async def send(
    http: httpx.AsyncClient,
    model: str,
    request: TimedRequest,
    *,
    due_s: float,
    on_start: Callable[[int], None] | None = None,
) -> Sample:
    """Send one request as a stream and read it to its end.

    Args:
        http: A client of the endpoint.
        model: Name of the model there.
        request: The request.
        due_s: When it is due to be sent, on the monotonic clock, s. Its times count from here.
        on_start: Called with the request's index at its first token.
    """
    blank = Sample(index=request.index, due_to_send_s=request.due_to_send_s)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    body = {**request.body, "model": model, **options}
    try:
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                await response.aread()
                return replace(blank, error=error_message(response))
            job_id = response.headers.get(JOB_ID_HEADER)
            return await _read(response, replace(blank, job_id=job_id), due_s, on_start)
    except httpx.HTTPError as exc:
        return replace(blank, error=str(exc) or type(exc).__name__)


async def _read(
    response: httpx.Response,
    sample: Sample,
    due_s: float,
    on_start: Callable[[int], None] | None,
) -> Sample:
    """Read a stream of server-sent events to its `[DONE]`."""
    async for event in read_events(response):
        if event.data == "[DONE]":
            return replace(sample, completion_s=time.monotonic() - due_s)
        chunk = json.loads(event.data)
        if "error" in chunk:
            return replace(sample, error=json.dumps(chunk["error"]))
        if sample.ttft_s is None and has_token(chunk):
            sample = replace(sample, ttft_s=time.monotonic() - due_s)
            if on_start is not None:
                on_start(sample.index)
        if chunk.get("usage"):
            usage = chunk["usage"]
            sample = replace(
                sample,
                prompt_tokens=usage.get("prompt_tokens"),
                output_tokens=usage.get("completion_tokens"),
            )
    return replace(sample, error="the stream ended before [DONE]")


def has_token(chunk: Mapping[str, Any]) -> bool:
    """Whether a chunk carries output. The first one often has only `role: assistant`."""
    for choice in chunk.get("choices") or []:
        delta = choice.get("delta") or {}
        if choice.get("text") or any(v for key, v in delta.items() if key != "role"):
            return True
    return False


async def look_up(service: ServiceClient, samples: Sequence[Sample]) -> list[Sample]:
    """Add to the samples what the queue stores of their jobs: prediction, tokens, service time.

    Raises:
        ServiceError: A sample has no job id, so that its URL is not of a queue service; or the
            service is down.
    """
    turn = asyncio.Semaphore(_LOOKUPS)

    async def one(sample: Sample) -> Sample:
        if not sample.ok:
            return sample
        if sample.job_id is None:
            raise ServiceError(
                f"{service.url} answered without a {JOB_ID_HEADER} header: is it an engine? "
                "--url is for the queue service, --engine-url for the engine"
            )
        async with turn:
            job = await service.job(sample.job_id)
            why = await service.explain(sample.job_id)
        known = job.started_ms is not None and job.finished_ms is not None
        service_ms = (job.finished_ms or 0) - (job.started_ms or 0)
        return replace(
            sample,
            policy=why.policy,
            predicted_tokens=None if why.prediction is None else why.predicted_tokens,
            output_tokens=job.output_tokens or sample.output_tokens,
            service_s=service_ms / 1000 if known else None,
        )

    return list(await asyncio.gather(*(one(sample) for sample in samples)))
