"""The HTTP client of a chaos run: one try, or many, at a random queue service.

Called by job_clients.py and openai_clients.py.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx

from lengthwise_lab.chaos.clients.transport import UvloopTransport
from lengthwise_lab.chaos.clients.workload import ChaosJob
from lengthwise_lab.chaos.history import History
from lengthwise_lab.chaos.system.processes import System

#: How long a client repeats a request, s: far longer than any fault lasts.
RETRY_FOR_S = 120.0

#: The response header with the job id.
_JOB_ID_HEADER = "x-lengthwise-job-id"


def job_named_by(response: httpx.Response) -> str | None:
    """Return the id of the job that a response names; None: it names none."""
    named: str | None = response.headers.get(_JOB_ID_HEADER)
    return named


def error_code(response: httpx.Response) -> str | None:
    """Return the code of an error; None: it is not in OpenAI's form, as an engine's own."""
    try:
        code = response.json()["error"]["code"]
    except (ValueError, TypeError, KeyError):
        return None
    return None if code is None else str(code)


class RetryingClient:
    """Calls the queue services with the tenants' keys, on one set of connections."""

    def __init__(self, system: System, history: History, *, seed: int) -> None:
        """Create the client of a system that need not run yet."""
        self._system, self._history = system, history
        self._rng = random.Random(f"clients {seed}")  # noqa: S311 - must repeat
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        timeout = httpx.Timeout(10.0)
        self._http = httpx.AsyncClient(timeout=timeout, transport=UvloopTransport(limits=limits))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def record_internal_error(self, response: httpx.Response) -> None:
        """Record a response that no fault of the run excuses."""
        if response.status_code == 500 and "internal_error" in response.text:
            where = f"{response.request.method} {response.request.url.path}"
            self._history.write("internal_error", "ok", where=where)

    def record_refusal(self, job: ChaosJob, response: httpx.Response) -> str | None:
        """Record a response that refuses a job, and return its error's code.

        Unless it names a job, it promises that nothing was accepted.
        """
        code = error_code(response)
        self._history.write(
            "refused",
            "ok",
            ref=job.ref,
            key=job.key,
            status=response.status_code,
            code=code,
            id=job_named_by(response),
        )
        return code

    async def pause(self) -> None:
        """Wait before the next try."""
        await asyncio.sleep(self._rng.uniform(0.1, 0.5))

    def stream(
        self,
        tenant: str,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        read_s: float = 30.0,
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Open a stream at one service. Raises what httpx raises; `read_s`: for silence."""
        url = self._rng.choice(self._system.urls) + path
        headers = self._authorized(tenant) | (headers or {})
        timeout = httpx.Timeout(10.0, read=read_s)
        return self._http.stream(method, url, json=body, headers=headers, timeout=timeout)

    def _authorized(self, tenant: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._system.keys[tenant]}"}

    async def call(
        self,
        tenant: str,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response | None:
        """Send a request once, to one service; None: no reply."""
        url = self._rng.choice(self._system.urls) + path
        headers = self._authorized(tenant) | (headers or {})
        try:
            got = await self._http.request(method, url, json=body, headers=headers)
        except httpx.TransportError:
            return None
        self.record_internal_error(got)
        return got

    async def call_until_answered(
        self,
        tenant: str,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response | None:
        """Repeat a request until a service answers it. Only for requests that may be repeated."""
        ends = asyncio.get_running_loop().time() + RETRY_FOR_S
        while asyncio.get_running_loop().time() < ends:
            got = await self.call(tenant, method, path, body, headers)
            if got is not None and got.status_code < 500 and got.status_code != 429:
                return got
            await self.pause()
        return None

    async def upload_until_answered(self, tenant: str, content: bytes) -> httpx.Response | None:
        """Upload a file for a batch, again until a service answers it."""
        ends = asyncio.get_running_loop().time() + RETRY_FOR_S
        while asyncio.get_running_loop().time() < ends:
            try:
                got = await self._http.post(
                    self._rng.choice(self._system.urls) + "/v1/files",
                    data={"purpose": "batch"},
                    files={"file": ("lines.jsonl", content)},
                    headers=self._authorized(tenant),
                )
            except httpx.TransportError:
                got = None
            if got is not None:
                self.record_internal_error(got)
                if got.status_code < 500:
                    return got
            await self.pause()
        return None
