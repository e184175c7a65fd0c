"""Clients of the OpenAI endpoints: chats and responses, plain and streaming, patient and not.

A client with a key repeats its request until it has an answer, as OpenAI's own client does with an
`Idempotency-Key`: when the connection broke, when a stream ended with `attempt_restarted`, and when
it left because it took too long. A client without a key sends its request once. Called by
job_clients.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from lengthwise_lab.chaos.checks.outputs import foreign
from lengthwise_lab.chaos.clients.retrying_client import RETRY_FOR_S, RetryingClient, job_named_by
from lengthwise_lab.chaos.clients.workload import ChaosJob
from lengthwise_lab.chaos.history import History
from lengthwise_lab.chaos.system.processes import QUEUE
from lengthwise_lab.server_sent_events import read_events

#: Errors of a job's request after which a client with a key repeats it.
_TRANSIENT_CODES = frozenset(
    {"attempt_restarted", "store_unavailable", "not_confirmed", "answer_interrupted"}
)

#: What reading something else than an answer raises.
_MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError)

#: How long a client waits for the next byte, s: one that can repeat its request, and one that
#: cannot, which waits for longer than the service waits for Redis.
_READ_S, _PATIENT_READ_S = 20.0, 75.0


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What one request came to.

    `text`: the answer. `final`: an error that another try would get as well. `status`: that of an
    error; None: the connection broke, or the client left.
    """

    text: str | None = None
    final: bool = False
    status: int | None = None
    code: str | None = None


class OpenAIRequest:
    """One client's request, with all its tries. `job_id`: from the latest reply that named one."""

    def __init__(self, client: RetryingClient, history: History, job: ChaosJob) -> None:
        self.job_id: str | None = None
        self._client, self._history, self._job = client, history, job
        self._acknowledged: set[str] = set()

    async def run(self, spec: dict[str, Any]) -> None:
        """Send the request until it has an answer, a final error, or no key to repeat it with."""
        job, write = self._job, self._history.write
        write("submit", "invoke", ref=job.ref, key=job.key, spec=spec)
        ends, tries = asyncio.get_running_loop().time() + RETRY_FOR_S, 0
        while asyncio.get_running_loop().time() < ends:
            tries += 1
            result = await self._try_once(job.patience_s if tries == 1 else None)
            if result.text is not None or (result.final and self.job_id is not None):
                await self._acknowledge()
                kind = "fail" if result.text is None else "ok"
                write("chat", kind, ref=job.ref, id=self.job_id, text=result.text, tries=tries)
                return
            if result.final and self.job_id is None:
                write("submit", "fail", ref=job.ref, key=job.key, status=result.status)
                return
            if job.key is None and result.status != httpx.codes.TOO_MANY_REQUESTS:
                await self._leave(result)
                return
            await self._client.pause()
        if self.job_id is None:
            write("submit", "info", ref=job.ref, key=job.key, tries=tries)
        else:
            write("chat", "info", ref=job.ref, id=self.job_id, tries=tries)

    async def _leave(self, result: _Result) -> None:
        """Record that the client is gone without an answer; its job may be cancelled."""
        job = self._job
        if self.job_id is not None:
            await self._acknowledge()
            self._history.write("left", "ok", ref=job.ref, id=self.job_id, status=result.status)
        elif result.status is None:
            self._history.write("submit", "info", ref=job.ref, key=job.key, tries=1)
            self._history.write("left", "ok", ref=job.ref, id=None, status=None)
        else:
            self._history.write("submit", "fail", ref=job.ref, key=job.key, status=result.status)

    async def _try_once(self, patience_s: float | None) -> _Result:
        try:
            async with asyncio.timeout(patience_s):
                return await self._send()
        except (TimeoutError, httpx.TransportError):
            return _Result()

    async def _send(self) -> _Result:
        job = self._job
        stream = job.route.endswith("_stream")
        chat = job.route.startswith("chat")
        path = "/v1/chat/completions" if chat else "/v1/responses"
        body: dict[str, Any] = {"model": QUEUE, "stream": stream}
        body |= (
            {"messages": [{"role": "user", "content": job.prompt}]}
            if chat
            else {"input": job.prompt}
        )
        headers = {} if job.key is None else {"Idempotency-Key": job.key}
        async with self._client.stream(
            job.tenant, "POST", path, body, headers, read_s=_READ_S if job.key else _PATIENT_READ_S
        ) as response:
            if not response.is_success:
                await response.aread()
                return self._refused(response)
            self.job_id = job_named_by(response)
            if not stream:
                await response.aread()
                try:
                    body = json.loads(response.content)
                    return _Result(text=_text_of_chat(body) if chat else _text_of_response(body))
                except _MALFORMED:
                    return _Result(text=foreign(response.content))
            if job.key is not None:
                await self._acknowledge()  # a later try may find another job, which is wrong
            return await _read_stream(response, _chat_event if chat else _response_event)

    def _refused(self, response: httpx.Response) -> _Result:
        """Return the result of a response with an error, and record what it promises."""
        self._client.record_internal_error(response)
        code = self._client.record_refusal(self._job, response)
        named = job_named_by(response)
        self.job_id = named or self.job_id
        transient = code in _TRANSIENT_CODES or (
            named is None and response.status_code in (429, 502, 503, 504)
        )
        return _Result(final=not transient, status=response.status_code, code=code)

    async def _acknowledge(self) -> None:
        """Record the job that the latest reply named, with the fields of its view."""
        job_id, job = self.job_id, self._job
        if job_id is None or job_id in self._acknowledged:
            return
        path = f"/v1/jobs/{job_id}"
        got = await self._client.call_until_answered(job.tenant, "GET", path)
        if got is None or not got.is_success:
            return
        self._acknowledged.add(job_id)
        view = got.json()
        fields = {n: view[n] for n in ("accepted_ms", "due_ms", "predicted_tokens", "state")}
        self._history.write("submit", "ok", ref=job.ref, key=job.key, id=job_id, tries=1, **fields)


async def _read_stream(
    response: httpx.Response, read_event: Callable[[Any, list[str]], _Result | None]
) -> _Result:
    pieces: list[str] = []
    async for event in read_events(response):
        if event.data == "[DONE]":
            return _Result(text="".join(pieces))
        try:
            result = read_event(json.loads(event.data), pieces)
        except _MALFORMED:
            pieces.append(foreign(event.data))
            continue
        if result is not None:
            return result
    return _Result()


def _chat_event(event: Any, pieces: list[str]) -> _Result | None:
    if "error" in event:
        code = event["error"].get("code")
        return _Result(final=code not in _TRANSIENT_CODES, code=code)
    # An engine may send events of its own, which are passed on; they are no part of the answer.
    for choice in event.get("choices") or ():
        pieces.append(choice["delta"].get("content") or "")
    return None


def _response_event(event: Any, pieces: list[str]) -> _Result | None:
    match event["type"]:
        case "response.output_text.delta":
            pieces.append(event["delta"])
        case "response.completed":
            text = _text_of_response(event["response"])
            if text != "".join(pieces):
                # The parts and the whole differ: return what the client has read piece by piece.
                text = "".join(pieces)
            return _Result(text=text)
        case "response.failed" | "response.incomplete" | "error":
            failed = (event.get("response") or {}).get("error") or event
            code = failed.get("code")
            return _Result(final=code not in _TRANSIENT_CODES, code=code)
    return None


def _text_of_chat(body: Any) -> str:
    return str(body["choices"][0]["message"].get("content") or "")


def _text_of_response(body: Any) -> str:
    return "".join(
        part.get("text", "")
        for item in body["output"]
        if item["type"] == "message"
        for part in item["content"]
    )
