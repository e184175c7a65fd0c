"""The HTTP client of a chaos run: one try, or many, at a random queue service.

Called by job_clients.py and chat_client.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx

from lengthwise_lab.chaos.clients.transport import UvloopTransport
from lengthwise_lab.chaos.history import History

#: How long a client repeats a request, s: far longer than any fault lasts.
RETRY_FOR_S = 120.0


class RetryingClient:
    """Calls the queue services with the tenants' keys, on one set of connections."""

    def __init__(
        self, urls: list[str], keys: Mapping[str, str], history: History, *, seed: int
    ) -> None:
        """Create the client. `urls`: the queue services; `keys`: tenant -> API key."""
        self._urls, self._keys, self._history = urls, keys, history
        self._rng = random.Random(f"clients {seed}")  # noqa: S311 - must repeat
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        timeout = httpx.Timeout(25.0, read=30.0)
        self._http = httpx.AsyncClient(timeout=timeout, transport=UvloopTransport(limits=limits))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def record_internal_error(self, response: httpx.Response) -> None:
        """Record a response that no fault of the run excuses."""
        if response.status_code == 500 and "internal_error" in response.text:
            where = f"{response.request.method} {response.request.url.path}"
            self._history.write("internal_error", "ok", where=where)

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
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Open a stream at one service. Raises what httpx raises."""
        url = self._rng.choice(self._urls) + path
        headers = self._authorized(tenant) | (headers or {})
        return self._http.stream(method, url, json=body, headers=headers)

    def _authorized(self, tenant: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._keys[tenant]}"}

    async def call(
        self,
        tenant: str,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response | None:
        """Send a request once, to one service; None: no reply."""
        url = self._rng.choice(self._urls) + path
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
