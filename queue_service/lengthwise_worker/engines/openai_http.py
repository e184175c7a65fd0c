"""An engine behind an OpenAI-compatible HTTP endpoint; the base class of most other engines.

Called by job_run.py through the `Engine` protocol.
"""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypedDict

import aiohttp
from yarl import URL

from lengthwise_store.jobs import Claim
from lengthwise_worker.engines import wire
from lengthwise_worker.engines.base import EngineResponse, Sink
from lengthwise_worker.errors import BadSettings, EngineFailed, EngineUnavailable

if TYPE_CHECKING:
    from lengthwise_worker.settings import Settings

log = logging.getLogger(__name__)

#: Close idle connections before the server does: uvicorn, and so vLLM, closes them after 5 s, and a
#: request on a closing connection would look like an engine failure.
_KEEP_IDLE_S = 2.0

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_CONNECT_TIMEOUT_S, _PROBE_TIMEOUT_S = 5.0, 5.0


class CallOptions(TypedDict):
    """Arguments of `OpenAIEngine`; see there."""

    api_key: str | None
    timeout_s: float
    connections: int


class OpenAIEngine:
    """Sends jobs to `{base}/v1/...`. See `Engine`."""

    kind = "openai"
    #: The path that `healthy` requests. /v1/models is common to all servers and checks the key.
    probe_path = "/v1/models"

    def __init__(
        self,
        url: str | None,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        connections: int = 64,
    ) -> None:
        """Store the settings. Nothing is sent yet.

        Args:
            url: Base URL, with or without `/v1`; None: `start` sets it.
            api_key: Sent as a bearer token; never logged.
            timeout_s: Longest silence inside one answer, s.
            connections: Maximum number of calls at once.
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
        """The HTTP client, created by the first call because it belongs to an event loop."""
        if self._made is None:
            self._made = aiohttp.ClientSession(
                headers=self._headers,
                skip_auto_headers=("Accept-Encoding",),  # compression delays a stream
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=self._timeout_s
                ),
                connector=aiohttp.TCPConnector(
                    limit=self._connections + 4, keepalive_timeout=_KEEP_IDLE_S
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                # A proxy from the environment must not be used for an engine on this machine.
                trust_env=URL(self._base).host not in _LOOPBACK,
            )
        return self._made

    def set_url(self, url: str) -> None:
        """Set the base URL, with or without `/v1`.

        Raises:
            BadSettings: It is not an HTTP URL.
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
        """Check that there is a URL. The engine itself runs elsewhere."""
        if not self._base:
            raise BadSettings(f"The engine {self.kind!r} needs LENGTHWISE_WORKER_ENGINE_URL.")

    async def healthy(self) -> bool:
        """Whether the probe succeeds. A rejected key counts as unhealthy and is logged."""
        try:
            status, _ = await self._get(self.probe_path)
        except (aiohttp.ClientError, TimeoutError):
            return False
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            log.error(
                "engine rejects the API key: set LENGTHWISE_WORKER_ENGINE_API_KEY",
                extra={"status": status},
            )
            return False
        return status < 500

    async def max_model_len(self) -> int | None:
        """Read /v1/models: vLLM's `max_model_len`, or llama.cpp's `meta.n_ctx`."""
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
        """Return status and body."""
        limit = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)
        async with self._http.get(self._base + path, timeout=limit, allow_redirects=False) as got:
            return got.status, await got.read()

    def request_for(self, claim: Claim) -> wire.EngineRequest:
        """Make the engine's request for a job. Subclasses add keys to it."""
        return wire.engine_request(claim.body)

    async def answer(self, claim: Claim, sink: Sink) -> EngineResponse:
        """Run one job. See `Engine`."""
        return await self._call(claim, self.request_for(claim), sink)

    async def _call(self, claim: Claim, request: wire.EngineRequest, sink: Sink) -> EngineResponse:
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
            raise EngineUnavailable(f"The engine does not listen: {exc}") from exc
        except aiohttp.ConnectionTimeoutError as exc:
            raise EngineUnavailable("The engine does not accept connections.") from exc
        except TimeoutError as exc:
            raise EngineFailed(f"The engine timed out: {type(exc).__name__}.") from exc
        except aiohttp.ClientError as exc:
            raise EngineFailed(f"The connection to the engine broke: {exc!r}.") from exc

    async def aclose(self) -> None:
        """Close the connections."""
        if self._made is not None:
            await self._made.close()


def _is_success(status: int) -> bool:
    return 200 <= status < 300


async def _read_stream(
    response: aiohttp.ClientResponse, request: wire.EngineRequest, sink: Sink
) -> EngineResponse:
    """Send each event to `sink`.

    Raises:
        EngineFailed: The stream ended before its `[DONE]`.
    """
    usage, splitter = wire.Usage(), wire.EventSplitter()
    async for data in response.content.iter_any():
        for event in splitter.feed(data):
            if event == b"[DONE]":
                return EngineResponse(
                    prompt_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens
                )
            shown = wire.read_event(event, usage, added_usage=request.added_usage)
            if shown is not None:
                sink(shown)
    raise EngineFailed("The engine's stream ended before its [DONE].")


def _read_body(body: bytes) -> EngineResponse:
    usage = wire.Usage()
    usage.read(wire.parse(body))
    return EngineResponse(
        body=body, prompt_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens
    )


def from_settings(settings: Settings) -> OpenAIEngine:
    """Build the engine from a worker's settings."""
    return OpenAIEngine(settings.engine_url, **call_options(settings))


def call_options(settings: Settings) -> CallOptions:
    """Return the settings that all engines with an HTTP endpoint share."""
    key = settings.engine_api_key
    return CallOptions(
        api_key=None if key is None else key.get_secret_value(),
        timeout_s=settings.engine_timeout_s,
        connections=settings.slots,
    )
