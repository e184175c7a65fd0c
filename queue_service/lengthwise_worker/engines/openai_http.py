"""An engine behind an OpenAI-compatible HTTP endpoint; the base class of most other engines.

Called by job_run.py through the `Engine` protocol.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypedDict

import aiohttp
from yarl import URL

from lengthwise_store.jobs import Claim
from lengthwise_worker.engines import wire
from lengthwise_worker.engines.added_fields import AddedFields
from lengthwise_worker.engines.answer_reader import AnswerReader
from lengthwise_worker.engines.base import EngineResponse, Health, Sink
from lengthwise_worker.engines.model_list import health_from
from lengthwise_worker.errors import (
    BadSettings,
    EngineFailed,
    EngineRefused,
    EngineUnavailable,
)

if TYPE_CHECKING:
    from lengthwise_worker.settings import Settings

log = logging.getLogger(__name__)

#: Close idle connections before the server does: uvicorn, and so vLLM, closes them after 5 s, and a
#: request on a closing connection would look like an engine failure.
_KEEP_IDLE_S = 2.0

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_CONNECT_TIMEOUT_S, _PROBE_TIMEOUT_S = 5.0, 5.0

#: How long the token counts and the end of a complete answer are waited for, s.
_LAST_WORDS_S = 5.0

#: Longest error body, and longest answer of a health check, that is read, bytes.
_LONGEST_ERROR = 1024 * 1024

#: Makes a request without some of the fields that the worker adds.
_RequestWithout = Callable[[frozenset[str]], wire.EngineRequest]


class CallOptions(TypedDict):
    """Arguments of `OpenAIEngine`; see there."""

    api_key: str | None
    timeout_s: float
    connections: int
    model: str
    must_list: bool


class OpenAIEngine:
    """Sends jobs to `{base}/v1/...`. See `Engine`."""

    kind = "openai"
    patience_s = 10.0
    #: The path that `health` requests first. /v1/models is common to all and checks the key.
    probe_path = "/v1/models"

    def __init__(
        self,
        url: str | None,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        connections: int = 64,
        model: str = "",
        must_list: bool = True,
    ) -> None:
        """Store the settings. Nothing is sent yet.

        Args:
            url: Base URL, with or without `/v1`; None: `start` sets it.
            api_key: Sent as a bearer token; never logged.
            timeout_s: Longest silence inside one answer, s.
            connections: Maximum number of calls at once.
            model: The name under which it must serve the model; "": any.
            must_list: Whether /v1/models must list that name.
        """
        self._base = ""
        if url is not None:
            self.set_url(url)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s
        self._connections = connections
        self._model, self._must_list = model, must_list
        self._fields, self._was_in_trouble = AddedFields(), False
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

    async def health(self) -> Health:
        """Ask the health check, and then whether /v1/models lists the model."""
        health = await self._ask_health()
        if health.problem is None and self._was_in_trouble:
            self._fields.forget()  # it may have been restarted with other options
        self._was_in_trouble = health.problem is not None
        return health

    async def _ask_health(self) -> Health:
        health = Health()
        for path in dict.fromkeys((self.probe_path, "/v1/models")):
            try:
                status, body = await self._get(path)
            except (aiohttp.ClientError, TimeoutError) as exc:
                return Health(problem=f"The engine does not answer {path}: {type(exc).__name__}.")
            if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                return Health(
                    problem=f"The engine rejects the API key with {status}: set "
                    "LENGTHWISE_WORKER_ENGINE_API_KEY."
                )
            if status >= 500:
                return Health(problem=f"The engine answers {status} to {path}.")
            if path == "/v1/models" and _is_success(status):
                health = health_from(body, self._model, must_list=self._must_list)
        return health

    async def _get(self, path: str) -> tuple[int, bytes]:
        """Return status and body."""
        limit = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)
        async with self._http.get(self._base + path, timeout=limit, allow_redirects=False) as got:
            return got.status, await _read(got)

    async def probe(self) -> None:
        """Have one token generated: by a chat, or by a completion if there are no chats."""
        request: dict[str, Any] = {"model": self._model, "max_tokens": 1}
        bodies: dict[str, dict[str, Any]] = {
            "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
            "/v1/completions": {"prompt": "Hi"},
        }
        refusals = []
        for path, more in bodies.items():
            request_without = functools.partial(
                self._probe_request, json.dumps(request | more).encode()
            )
            try:
                await self._answer(path, request_without, _drop)
            except EngineRefused as exc:
                refusals.append(exc)
            else:
                return
        if all(exc.status == HTTPStatus.NOT_FOUND for exc in refusals):
            raise EngineUnavailable(
                f"The engine does not know the model {self._model!r}: {refusals[0].message}",
                status=404,
            )
        # It reads requests, and does not take this one: an engine without a chat template, say.

    def _probe_request(self, body: bytes, without: frozenset[str]) -> wire.EngineRequest:
        return wire.engine_request(body, without=without)

    def request_for(self, claim: Claim, without: frozenset[str]) -> wire.EngineRequest:
        """Make the engine's request for a job. Subclasses add fields, but none of `without`."""
        return wire.engine_request(claim.body, without=without)

    async def answer(self, claim: Claim, sink: Sink) -> EngineResponse:
        """Run one job. See `Engine`."""
        return await self._answer(
            claim.endpoint,
            lambda w: self.request_for(claim, w),
            sink,
            request_id=claim.request_id,
        )

    async def _answer(
        self, path: str, request_without: _RequestWithout, sink: Sink, *, request_id: str = ""
    ) -> EngineResponse:
        """Send a request; again without a field that the worker added and the engine refuses."""
        without, guesses = self._fields.refused, None
        while True:
            request, sent = request_without(without), _Counted(sink)
            try:
                response = await self._call(path, request, sent, request_id)
            except EngineRefused as exc:
                if sent.pieces:
                    raise
                if named := self._fields.named_in(exc, request.added):
                    without |= named
                    continue
                if guesses is None:
                    known, guesses = without, self._fields.guesses(exc, request.added)
                if not guesses:
                    raise
                without = known | guesses.pop(0)
                continue
            self._fields.succeeded(added=request.added, without=without)
            return response

    async def _call(
        self, path: str, request: wire.EngineRequest, sink: Sink, request_id: str
    ) -> EngineResponse:
        reader = AnswerReader(request, sink)
        headers = {"Content-Type": "application/json"}
        if request_id:
            headers["X-Request-Id"] = request_id  # vLLM logs it, and makes its answer's id of it
        try:
            async with (
                self._http.post(
                    self._base + path,
                    data=request.body,
                    headers=headers,
                    allow_redirects=False,
                ) as response,
                asyncio.timeout(None) as limit,
            ):
                if not _is_success(response.status):
                    body = await _read(response)
                    raise wire.error_of(response.status, body, response.headers.get("Retry-After"))
                async for data in response.content.iter_any():
                    reader.feed(data)
                    if reader.done:
                        break
                    if reader.complete and limit.when() is None:
                        limit.reschedule(asyncio.get_running_loop().time() + _LAST_WORDS_S)
        except aiohttp.ClientConnectorError as exc:
            raise EngineUnavailable(f"The engine does not listen: {exc}") from exc
        except aiohttp.ConnectionTimeoutError as exc:
            raise EngineUnavailable("The engine does not accept connections.") from exc
        except TimeoutError as exc:
            if not reader.complete:
                raise EngineFailed(f"The engine timed out: {type(exc).__name__}.") from exc
        except (aiohttp.ClientError, OSError) as exc:
            if not reader.complete:
                raise EngineFailed(f"The connection to the engine broke: {exc!r}.") from exc
        return reader.end()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._made is not None:
            await self._made.close()


def _is_success(status: int) -> bool:
    return 200 <= status < 300


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return a short body; of a long one, its beginning."""
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > _LONGEST_ERROR:
            break
    return bytes(body)


class _Counted:
    """A sink that counts the pieces that pass through it."""

    def __init__(self, sink: Sink) -> None:
        self._sink, self.pieces = sink, 0

    def __call__(self, piece: bytes) -> None:
        self.pieces += 1
        self._sink(piece)


def _drop(piece: bytes) -> None:
    """Take a piece that no client gets."""


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
        model=settings.queue,
        must_list=settings.engine_must_list,
    )
