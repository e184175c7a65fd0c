"""Any engine behind an OpenAI-compatible HTTP endpoint; the base of the other engines.

Called by job_run.py through the `Engine` protocol.
"""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

import aiohttp
from yarl import URL

from lengthwise_store.jobs import Claim
from lengthwise_worker.engines import wire
from lengthwise_worker.engines.base import Answer, Sink
from lengthwise_worker.errors import BadSettings, EngineAway, EngineFailed

log = logging.getLogger(__name__)

#: Idle connections are dropped before the server does it: uvicorn, and so vLLM, waits 5 s, and a
#: request that meets a closing connection would look like an engine that broke.
_KEEP_IDLE_S = 2.0

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_CONNECT_TIMEOUT_S, _PROBE_TIMEOUT_S = 5.0, 5.0


class OpenAIEngine:
    """Calls `{base}/v1/...`; see `Engine`."""

    kind = "openai"
    #: What `healthy` asks for. Only /v1/models is common to all; it also proves the key.
    probe_path = "/v1/models"

    def __init__(
        self,
        url: str | None,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        connections: int = 64,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: Base URL, with or without `/v1`; None: `start` learns it.
            api_key: Sent as a bearer token; never logged.
            timeout_s: Longest silence inside one answer, s.
            connections: The most calls at once.
        """
        self._base = ""
        if url is not None:
            self.set_url(url)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s
        self._connections = connections
        self._made: aiohttp.ClientSession | None = None

    @property
    def _http(self) -> aiohttp.ClientSession:
        """Made by the first call, in its event loop."""
        if self._made is None:
            self._made = aiohttp.ClientSession(
                headers=self._headers,
                skip_auto_headers=("Accept-Encoding",),  # a compressed stream comes in lumps
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=self._timeout_s
                ),
                connector=aiohttp.TCPConnector(
                    limit=self._connections + 4, keepalive_timeout=_KEEP_IDLE_S
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                # A proxy of the environment is for the outside, never for an engine beside us.
                trust_env=URL(self._base).host not in _LOOPBACK,
            )
        return self._made

    def set_url(self, url: str) -> None:
        """Where the engine is, with or without `/v1`.

        Raises:
            BadSettings: That is no HTTP URL.
        """
        try:
            usable = URL(url).scheme in ("http", "https") and bool(URL(url).host)
        except ValueError:
            usable = False
        if not usable:
            raise BadSettings(
                "LENGTHWISE_WORKER_ENGINE_URL must be like http://127.0.0.1:8000, with or without "
                f"/v1; it is {url!r}."
            )
        self._base = url.rstrip("/").removesuffix("/v1")

    async def start(self) -> None:
        """Nothing to start: the engine is somebody else's."""
        if not self._base:
            raise BadSettings(f"The engine {self.kind!r} needs LENGTHWISE_WORKER_ENGINE_URL.")

    async def healthy(self) -> bool:
        """Whether the probe is answered; a wrong key counts as unhealthy, and is logged."""
        try:
            status, _ = await self._get(self.probe_path)
        except (aiohttp.ClientError, TimeoutError):
            return False
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            log.error(
                "engine refuses our key: set LENGTHWISE_WORKER_ENGINE_API_KEY",
                extra={"status": status},
            )
            return False
        return status < 500

    async def max_model_len(self) -> int | None:
        """From /v1/models: vLLM's `max_model_len`, or llama.cpp's `meta.n_ctx`."""
        try:
            status, body = await self._get("/v1/models")
            models: Any = json.loads(body)["data"] if _is_success(status) else []
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
            return None
        for model in models if isinstance(models, list) else []:
            meta = model.get("meta") if isinstance(model.get("meta"), dict) else {}
            found = model.get("max_model_len") or meta.get("n_ctx")
            if isinstance(found, int) and found > 0:
                return found
        return None

    async def _get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        limit = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)
        async with self._http.get(self._base + path, timeout=limit, allow_redirects=False) as got:
            return got.status, await got.read()

    def shape(self, claim: Claim) -> wire.Request:
        """The request for a job. Other engines add to it."""
        return wire.shape(claim.body)

    async def answer(self, claim: Claim, sink: Sink) -> Answer:
        """Have one job answered; see `Engine`."""
        return await self._call(claim, self.shape(claim), sink)

    async def _call(self, claim: Claim, request: wire.Request, sink: Sink) -> Answer:
        try:
            async with self._http.post(
                self._base + claim.endpoint,
                data=request.body,
                headers={"Content-Type": "application/json"},
                allow_redirects=False,
            ) as response:
                if not _is_success(response.status):
                    body = await response.read()
                    retry_after = response.headers.get("Retry-After")
                    raise wire.error_of(response.status, body, retry_after)
                kind = response.headers.get("Content-Type", "")
                if kind.startswith("text/event-stream"):
                    return await _read_stream(response, request, sink)
                return _read_body(await response.read())
        except aiohttp.ClientConnectorError as exc:
            raise EngineAway(f"The engine does not listen: {exc}") from exc
        except aiohttp.ConnectionTimeoutError as exc:
            raise EngineAway("The engine does not accept connections.") from exc
        except TimeoutError as exc:
            raise EngineFailed(f"The engine fell silent: {type(exc).__name__}.") from exc
        except aiohttp.ClientError as exc:
            raise EngineFailed(f"The connection to the engine broke: {exc!r}.") from exc

    async def aclose(self) -> None:
        """Close the connections."""
        if self._made is not None:
            await self._made.close()


def _is_success(status: int) -> bool:
    return 200 <= status < 300


async def _read_stream(
    response: aiohttp.ClientResponse, request: wire.Request, sink: Sink
) -> Answer:
    """Hand each event to `sink`.

    Raises:
        EngineFailed: The stream ended before its `[DONE]`.
    """
    usage, splitter = wire.Usage(), wire.EventSplitter()
    async for data in response.content.iter_any():
        for event in splitter.feed(data):
            if event == b"[DONE]":
                return Answer(prompt_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens)
            shown = wire.read_event(event, usage, added_usage=request.added_usage)
            if shown is not None:
                sink(shown)
    raise EngineFailed("The engine's stream ended before its [DONE].")


def _read_body(body: bytes) -> Answer:
    usage = wire.Usage()
    usage.read(wire.parse(body))
    return Answer(body=body, prompt_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens)
