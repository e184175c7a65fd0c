"""HTTP as the clients of a chaos run use it: one try, or many, at one service or another.

Called by clients.py and chats.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx

from lengthwise_lab.chaos.clients.transport import SaysCut
from lengthwise_lab.chaos.history import History

#: How long a client insists, s: far longer than any fault lasts.
INSIST_S = 120.0


class Caller:
    """The services, the tenants' keys, and one set of connections."""

    def __init__(
        self, urls: list[str], keys: Mapping[str, str], history: History, *, seed: int
    ) -> None:
        """Nothing is sent yet; `urls` are the queue services, `keys` those of the tenants."""
        self._urls, self._keys, self._history = urls, keys, history
        self._dice = random.Random(f"clients {seed}")  # noqa: S311 - must repeat
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        timeout = httpx.Timeout(25.0, read=30.0)
        self._http = httpx.AsyncClient(timeout=timeout, transport=SaysCut(limits=limits))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def note(self, response: httpx.Response) -> None:
        """Write down an answer that no fault of the surroundings excuses."""
        if response.status_code == 500 and "internal_error" in response.text:
            where = f"{response.request.method} {response.request.url.path}"
            self._history.write("internal_error", "ok", where=where)

    async def pause(self) -> None:
        """Before another try."""
        await asyncio.sleep(self._dice.uniform(0.1, 0.5))

    def stream(
        self,
        tenant: str,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Open a stream at one service; raises what httpx raises."""
        url = self._dice.choice(self._urls) + path
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
        """One try at one service; None: no reply."""
        url = self._dice.choice(self._urls) + path
        headers = self._authorized(tenant) | (headers or {})
        try:
            got = await self._http.request(method, url, json=body, headers=headers)
        except httpx.TransportError:
            return None
        self.note(got)
        return got

    async def insist(
        self,
        tenant: str,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response | None:
        """Try until somebody has an answer; for what may be repeated."""
        ends = asyncio.get_running_loop().time() + INSIST_S
        while asyncio.get_running_loop().time() < ends:
            got = await self.call(tenant, method, path, body, headers)
            if got is not None and got.status_code < 500 and got.status_code != 429:
                return got
            await self.pause()
        return None
