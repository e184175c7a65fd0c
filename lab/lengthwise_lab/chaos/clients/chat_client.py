"""A client of the OpenAI face: streams a chat, and repeats it under its key until it is answered.

That is what OpenAI's own client does with an `Idempotency-Key`. A stream that breaks off, or that
ends with `attempt_restarted` because a worker was lost, is repeated, and must then bring the whole
answer of one attempt. Called by clients.py.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from lengthwise_lab.chaos.clients.workload import Ask
from lengthwise_lab.chaos.clients.service_client import INSIST_S, Caller
from lengthwise_lab.chaos.history import History
from lengthwise_lab.chaos.system.processes import QUEUE

#: Tells which job a request became.
_JOB_ID_HEADER = "x-lengthwise-job-id"

#: Errors in mid-stream after which one asks again.
_PASSING = frozenset({"attempt_restarted", "store_unavailable"})


class _AskAgain(Exception):
    """This try brought no answer, and another may."""


async def talk(caller: Caller, history: History, job: Ask, spec: dict[str, Any]) -> str | None:
    """Ask until there is an answer, or an error that is one; the job's id, if it was told."""
    chat = _Chat(caller, history, job)
    history.write("submit", "invoke", ref=job.ref, key=job.key, spec=spec)
    ends, tries = asyncio.get_running_loop().time() + INSIST_S, 0
    while asyncio.get_running_loop().time() < ends:
        tries += 1
        try:
            text = await chat.once()
        except (_AskAgain, httpx.TransportError):
            await caller.pause()
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
    """The tries of one client. `job_id` is what it was last told."""

    def __init__(self, caller: Caller, history: History, job: Ask) -> None:
        self.job_id: str | None = None
        self._caller, self._history, self._job = caller, history, job

    async def once(self) -> str | None:
        """One try: the answer's text, or None when the job ended without one.

        Raises:
            _AskAgain: It broke off.
            httpx.TransportError: Likewise.
        """
        job = self._job
        body = {
            "model": QUEUE,
            "messages": [{"role": "user", "content": job.script.as_prompt()}],
            "stream": True,
        }
        headers = {"Idempotency-Key": job.key or ""}
        async with self._caller.stream(
            job.tenant, "POST", "/v1/chat/completions", body, headers
        ) as response:
            if response.status_code in (429, 503):
                raise _AskAgain
            if not response.is_success:
                await response.aread()
                self._caller.note(response)
                if response.json()["error"]["code"] in _PASSING:
                    raise _AskAgain
                return None
            await self._acknowledged(response.headers[_JOB_ID_HEADER])
            return await _text(response)

    async def _acknowledged(self, job_id: str) -> None:
        """The headers name the job: that is its acknowledgement; what else there is, is asked."""
        if job_id == self.job_id:
            return
        self.job_id = job_id
        got = await self._caller.insist(self._job.tenant, "GET", f"/v1/jobs/{job_id}")
        if got is None or not got.is_success:
            raise _AskAgain
        view = got.json()
        known = {n: view[n] for n in ("accepted_ms", "due_ms", "predicted_tokens", "state")}
        job = self._job
        self._history.write("submit", "ok", ref=job.ref, key=job.key, id=job_id, tries=1, **known)


async def _text(response: httpx.Response) -> str | None:
    text = ""
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return text
        event = json.loads(data)
        if "error" in event:
            if event["error"]["code"] in _PASSING:
                raise _AskAgain
            return None
        for choice in event["choices"]:
            text += choice["delta"].get("content") or ""
    raise _AskAgain
