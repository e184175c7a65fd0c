"""A client of the OpenAI endpoint: it streams a chat and repeats it under its key until answered.

OpenAI's own client does the same with an `Idempotency-Key`. A stream is repeated if it is cut off,
or if it ends with `attempt_restarted` because a worker was lost. The repeated stream must contain
the whole answer of one attempt. Called by job_clients.py.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from lengthwise_lab.chaos.clients.retrying_client import RETRY_FOR_S, RetryingClient
from lengthwise_lab.chaos.clients.workload import ChaosJob
from lengthwise_lab.chaos.history import History
from lengthwise_lab.chaos.system.processes import QUEUE
from lengthwise_lab.server_sent_events import read_events

#: The response header with the job id.
_JOB_ID_HEADER = "x-lengthwise-job-id"

#: Errors in the middle of a stream after which the client repeats the request.
_RETRIED_CODES = frozenset({"attempt_restarted", "store_unavailable"})


class _Retry(Exception):
    """This try had no answer, and another may have one."""


async def run_chat(
    client: RetryingClient, history: History, job: ChaosJob, spec: dict[str, Any]
) -> str | None:
    """Repeat a chat until it has an answer or a final error.

    Returns:
        The job's id; None: no reply named one.
    """
    chat = _Chat(client, history, job)
    history.write("submit", "invoke", ref=job.ref, key=job.key, spec=spec)
    ends, tries = asyncio.get_running_loop().time() + RETRY_FOR_S, 0
    while asyncio.get_running_loop().time() < ends:
        tries += 1
        try:
            text = await chat.once()
        except (_Retry, httpx.TransportError):
            await client.pause()
            continue
        kind = "fail" if text is None else "ok"
        history.write("chat", kind, ref=job.ref, id=chat.job_id, text=text, tries=tries)
        return chat.job_id
    if chat.job_id is None:
        history.write("submit", "info", ref=job.ref, key=job.key, tries=tries)
    else:
        history.write("chat", "info", ref=job.ref, id=chat.job_id, tries=tries)
    return chat.job_id


class _Chat:
    """The tries of one client. `job_id`: from the latest reply."""

    def __init__(self, client: RetryingClient, history: History, job: ChaosJob) -> None:
        self.job_id: str | None = None
        self._client, self._history, self._job = client, history, job

    async def once(self) -> str | None:
        """Send the request once. Return the answer's text; None: the job ended without one.

        Raises:
            _Retry: The stream was cut off, or the error is transient.
            httpx.TransportError: Likewise.
        """
        job = self._job
        body = {
            "model": QUEUE,
            "messages": [{"role": "user", "content": job.script.as_prompt()}],
            "stream": True,
        }
        headers = {"Idempotency-Key": job.key or ""}
        async with self._client.stream(
            job.tenant, "POST", "/v1/chat/completions", body, headers
        ) as response:
            if response.status_code in (429, 503):
                raise _Retry
            if not response.is_success:
                await response.aread()
                self._client.record_internal_error(response)
                if response.json()["error"]["code"] in _RETRIED_CODES:
                    raise _Retry
                return None
            await self._record_acknowledgement(response.headers[_JOB_ID_HEADER])
            return await _read_text(response)

    async def _record_acknowledgement(self, job_id: str) -> None:
        """Record the job that the headers name, with the fields of its view."""
        if job_id == self.job_id:
            return
        self.job_id = job_id
        path = f"/v1/jobs/{job_id}"
        got = await self._client.call_until_answered(self._job.tenant, "GET", path)
        if got is None or not got.is_success:
            raise _Retry
        view = got.json()
        fields = {n: view[n] for n in ("accepted_ms", "due_ms", "predicted_tokens", "state")}
        job = self._job
        self._history.write("submit", "ok", ref=job.ref, key=job.key, id=job_id, tries=1, **fields)


async def _read_text(response: httpx.Response) -> str | None:
    text = ""
    async for event in read_events(response):
        if event.data == "[DONE]":
            return text
        chunk = json.loads(event.data)
        if "error" in chunk:
            if chunk["error"]["code"] in _RETRIED_CODES:
                raise _Retry
            return None
        for choice in chunk["choices"]:
            text += choice["delta"].get("content") or ""
    raise _Retry
