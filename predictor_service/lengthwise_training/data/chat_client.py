"""A retrying client of an OpenAI-compatible endpoint.

Called by `collect` and by `compare.self_perception`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

#: The first and the longest wait before a retry, s; waits double, with full jitter.
_BACKOFF_BASE_S, _BACKOFF_MOST_S = 0.5, 30.0

#: Statuses worth a retry: the endpoint is busy, restarting or limits the rate.
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class ChatRequestFailed(Exception):
    """One request got no answer, after all its tries; the message gives the cause."""


@dataclass(frozen=True)
class ChatReply:
    """One answer.

    Attributes:
        text: Its text.
        output_tokens: As counted by the endpoint.
        prompt_tokens: The same, or None.
        cut: Whether it ended at a cap (`finish_reason` is `length`), so that it is censored.
        seconds: Duration, with its retries.
    """

    text: str
    output_tokens: int
    prompt_tokens: int | None
    cut: bool
    seconds: float


class ChatClient:
    """A client of one endpoint and model; an async context manager."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        concurrency: int = 8,
        tries: int = 6,
        timeout_s: float = 600.0,
        seed: int = 0,
    ) -> None:
        """Set up the client; it connects on first use.

        Args:
            url: With or without `/v1` at its end.
            model: The model's name there.
            api_key: Sent as a bearer token.
            concurrency: Most requests in progress.
            tries: How often a request is tried before it counts as failed.
            timeout_s: Of one try, s.
            seed: Of the jitter.
        """
        self.model = model
        self._tries = tries
        self._chance = random.Random(seed)  # noqa: S311 (jitter)
        self._slots = asyncio.Semaphore(concurrency)
        self.retries = 0  #: So far.
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            host = httpx.URL(url).host
        except httpx.InvalidURL:
            host = ""  # the first request reports it
        self._client = httpx.AsyncClient(
            trust_env=host not in _LOOPBACK,  # no proxy for this machine itself
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=10.0),
            limits=httpx.Limits(max_connections=concurrency),
        )

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def complete(self, messages: list[dict[str, Any]], **fields: Any) -> ChatReply:
        """Get one answer to a chat.

        Args:
            messages: The chat.
            fields: More fields of the body: `max_tokens`, `temperature`, `seed`; None leaves one
                out.

        Raises:
            ChatRequestFailed: No answer after all tries, or a refusal that a retry does not change.
        """
        body = {"model": self.model, "messages": messages}
        body |= {name: value for name, value in fields.items() if value is not None}
        async with self._slots:
            began = time.perf_counter()
            reply = await self._reply(body)
            return _answer(reply, time.perf_counter() - began)

    async def _reply(self, body: Mapping[str, Any]) -> Any:
        why = ""
        for attempt in range(self._tries):
            if attempt:
                self.retries += 1
            requested_s: float | None = None
            try:
                response = await self._client.post("/v1/chat/completions", json=body)
                if response.status_code == 200:
                    return response.json()
                why = f"HTTP {response.status_code}: {response.text[:300]}"
                if response.status_code not in _RETRIED:
                    raise ChatRequestFailed(why)
                requested_s = _retry_after(response)
            except (httpx.HTTPError, ValueError) as exc:
                why = str(exc) or type(exc).__name__
            except httpx.InvalidURL as exc:
                raise ChatRequestFailed(f"not a URL: {exc}") from exc
            if attempt + 1 < self._tries:
                pause = self._chance.random() * min(_BACKOFF_MOST_S, _BACKOFF_BASE_S * 2**attempt)
                await asyncio.sleep(pause if requested_s is None else requested_s + pause)
        raise ChatRequestFailed(f"{self._tries} tries, the last: {why}")


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return min(_BACKOFF_MOST_S, max(0.0, float(response.headers["retry-after"])))
    except (KeyError, ValueError):
        return None


def _answer(reply: Any, seconds: float) -> ChatReply:
    try:
        choice, usage = reply["choices"][0], reply["usage"]
        tokens = int(usage["completion_tokens"])
        prompt = usage.get("prompt_tokens")
        text = choice["message"].get("content") or ""
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as exc:
        raise ChatRequestFailed(
            f"the endpoint's answer has no `choices` with `usage.completion_tokens`: {exc!r}"
        ) from exc
    return ChatReply(text, tokens, prompt, choice.get("finish_reason") == "length", seconds)
