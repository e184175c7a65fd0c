"""Sends a workload to an OpenAI endpoint at its appointed times, and measures every answer.

An open loop: a request leaves at its time whether or not earlier ones are answered, and its clock
starts at that time even if this process was late to send it. Called by compare.py.
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

#: The queue service names the job of an OpenAI request in this header of its answer.
JOB_ID_HEADER = "x-lengthwise-job-id"
#: How many jobs are looked up at once afterwards.
_LOOKUPS = 8


@dataclass(frozen=True, kw_only=True)
class Target:
    """An OpenAI endpoint: its root, the model to ask for, and how long to wait at most."""

    url: str
    model: str
    timeout_s: float = 600.0
    api_key: str | None = None

    def client(self) -> httpx.AsyncClient:
        """A client without a cap on connections: a cap would make the loop a closed one."""
        return httpx.AsyncClient(
            base_url=root_of(self.url),
            timeout=self.timeout_s,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            headers={"Authorization": f"Bearer {self.api_key}"} if self.api_key else {},
        )


async def drive(
    target: Target, requests: Sequence[TimedRequest], *, on_done: Callable[[Sample], None]
) -> list[Sample]:
    """Send all requests at their times; their samples in the order of the requests.

    A request that fails has `error` set; nothing is raised for it and nothing is tried again.

    Args:
        target: Where to.
        requests: The workload.
        on_done: Called with every sample as its request ends, for a progress bar.
    """
    async with target.client() as http:
        start_s = time.monotonic()

        async def send(request: TimedRequest) -> Sample:
            await asyncio.sleep(start_s + request.due_to_send_s - time.monotonic())
            sample = await ask(http, target.model, request, due_s=start_s + request.due_to_send_s)
            on_done(sample)
            return sample

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(send(request)) for request in requests]
    return [task.result() for task in tasks]


async def ask(
    http: httpx.AsyncClient, model: str, request: TimedRequest, *, due_s: float
) -> Sample:
    """Send one request as a stream and read it to its end.

    Args:
        http: Bound to the endpoint.
        model: Name of the model there.
        request: What to send.
        due_s: When it was to be sent, on the monotonic clock, seconds; the zero of its times.
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
            return await _read(response, replace(blank, job_id=job_id), due_s)
    except httpx.HTTPError as exc:
        return replace(blank, error=str(exc) or type(exc).__name__)


async def _read(response: httpx.Response, sample: Sample, due_s: float) -> Sample:
    """Read a stream of server-sent events to its `[DONE]`."""
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return replace(sample, completion_s=time.monotonic() - due_s)
        event = json.loads(data)
        if "error" in event:
            return replace(sample, error=json.dumps(event["error"]))
        if sample.ttft_s is None and has_token(event):
            sample = replace(sample, ttft_s=time.monotonic() - due_s)
        if event.get("usage"):
            usage = event["usage"]
            sample = replace(
                sample,
                prompt_tokens=usage.get("prompt_tokens"),
                output_tokens=usage.get("completion_tokens"),
            )
    return replace(sample, error="the stream ended before [DONE]")


def has_token(event: Mapping[str, Any]) -> bool:
    """Whether a chunk carries output: the first one often says no more than `role: assistant`."""
    for choice in event.get("choices") or []:
        delta = choice.get("delta") or {}
        if choice.get("text") or any(v for key, v in delta.items() if key != "role"):
            return True
    return False


async def look_up(service: ServiceClient, samples: Sequence[Sample]) -> list[Sample]:
    """The samples, with what the queue knows of their jobs: prediction, tokens, service time.

    Raises:
        ServiceError: A sample has no job id, so its URL is not that of a queue service; or it is
            down.
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
