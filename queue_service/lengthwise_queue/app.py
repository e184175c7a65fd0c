"""The queue service as an ASGI app: its parts, its lifespan, and the response to each error."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from lengthwise_queue import errors
from lengthwise_queue.admission.retry_after import LATEST_S
from lengthwise_queue.api import health, jobs, queues
from lengthwise_queue.batches.runner import BatchRunner
from lengthwise_queue.errors import BadRequest, WrongMethod
from lengthwise_queue.openai import batches, files, models
from lengthwise_queue.openai import routes as routes_openai
from lengthwise_queue.openai.delivery import JOB_ID_HEADER
from lengthwise_queue.openai.responses import routes as routes_responses
from lengthwise_queue.service import Service, of
from lengthwise_queue.settings import Settings
from lengthwise_queue.tenants.registry import TenantRegistry
from lengthwise_queue.web import openapi
from lengthwise_queue.web.disconnect import CLIENT_CLOSED_REQUEST
from lengthwise_queue.web.head import HeadAsGet
from lengthwise_queue.web.metrics_port import MetricsPort
from lengthwise_queue.web.paths import ForgivingPaths, suggestion
from lengthwise_queue.web.request_id import REQUEST_ID_HEADER, RequestIds, request_id_of
from lengthwise_store import errors as store_errors
from lengthwise_store.errors import JobEnded, LengthwiseError
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore

log = logging.getLogger(__name__)

#: The HTTP status of each error. An error that is not in the table has that of its base class.
STATUS: dict[type[LengthwiseError], int] = {
    errors.BadRequest: 400,
    errors.ModelNotFound: 404,
    errors.WrongMethod: 405,
    errors.BodyTooLarge: 413,
    store_errors.StorageFull: 413,
    errors.UnsupportedMedia: 415,
    errors.WrongKey: 401,
    errors.AdminOnly: 403,
    errors.JobNotFound: 404,
    errors.ObjectNotFound: 404,
    errors.NotRedrivable: 409,
    errors.QueueInUse: 409,
    errors.QueueExists: 412,
    errors.KeyConflict: 422,
    errors.QueueOverloaded: 429,
    errors.QueueDraining: 503,
    errors.NoWorkers: 503,
    errors.SubmitUnconfirmed: 503,
    errors.AnswerInterrupted: 503,
    store_errors.StoreUnavailable: 503,
    store_errors.NotConfirmed: 503,
    store_errors.StoreUnfit: 503,
    errors.AttemptRestarted: 502,
    store_errors.JobFailed: 502,
    store_errors.JobCancelled: 409,
    store_errors.JobExpired: 504,
    LengthwiseError: 500,
}

_ROUTERS = (
    routes_openai.router,
    models.router,
    routes_responses.router,
    files.router,
    batches.router,
    jobs.router,
    queues.router,
    health.router,
)

#: The headers of responses that a web page of another origin may read.
_EXPOSED_HEADERS = (
    JOB_ID_HEADER,
    REQUEST_ID_HEADER,
    "Location",
    "Retry-After",
    "retry-after-ms",
    "x-should-retry",
)

#: `Retry-After` of a 503 whose error sets none, s.
RETRY_503_S = 1.0

#: `Retry-After` is longer at random by up to this part of it, and up to this many s at least, so
#: that clients do not all return at the same time.
SPREAD, LEAST_SPREAD_S = 0.1, 0.5


class QueueApp(FastAPI):
    """The app, inside of what all its responses have in common, those of internal errors too."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(**options)
        self._settings = settings

    def build_middleware_stack(self) -> ASGIApp:
        """Make the app that the server calls."""
        app = super().build_middleware_stack()
        if self._settings.metrics_port:
            app = MetricsPort(app, self._settings.metrics_port)
        app = ForgivingPaths(HeadAsGet(app))
        if self._settings.cors_origins:
            app = CORSMiddleware(
                app,
                allow_origins=self._settings.cors_origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=_EXPOSED_HEADERS,
            )
        return RequestIds(app)


def store_settings(settings: Settings) -> StoreSettings:
    """Return the settings that concern the store."""
    return StoreSettings(
        durability=settings.durability,
        durability_replicas=settings.durability_replicas,
        durability_timeout_ms=settings.durability_timeout_ms,
    )


def create_app(settings: Settings) -> FastAPI:
    """Make the app. It connects to Redis when it starts, and also starts without Redis.

    Raises:
        ValueError: The tenants file or the API key is not valid.
    """
    tenants = TenantRegistry(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = JobStore(settings.redis_address(), store_settings(settings))
        service = Service(settings, store, tenants)
        app.state.service = service
        service.start()
        runner = BatchRunner(service, status_of)
        runner.start()
        yield
        await runner.aclose()
        await service.aclose()

    app = QueueApp(
        settings,
        title="Lengthwise",
        summary="LLM serving that answers the short requests first.",
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would lose the body
    )
    for router in _ROUTERS:
        app.include_router(router)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    app.add_exception_handler(LengthwiseError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_wrong_parameter)
    app.add_exception_handler(HTTPException, _on_no_route)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_bug)
    return app


def status_of(error: LengthwiseError) -> int:
    """Return the HTTP status of an error: the engine's own status, or that of the table."""
    if isinstance(error, JobEnded) and error.status is not None and 400 <= error.status <= 599:
        return error.status
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def _error_response(error: LengthwiseError, status: int) -> Response:
    headers: dict[str, str] = {}
    wait_s = error.retry_after_s
    if wait_s is None and status == 503 and not isinstance(error, JobEnded):
        wait_s = RETRY_503_S
    if wait_s is not None:
        headers |= _retry_after(wait_s)
    if isinstance(error, errors.WrongKey):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, WrongMethod):
        headers["Allow"] = error.allowed
    if isinstance(error, errors.NotRedrivable | errors.QueueInUse):
        headers["x-should-retry"] = "false"  # OpenAI's client repeats every 409
    if error.job_id is not None:
        headers[JOB_ID_HEADER] = error.job_id
    if isinstance(error, errors.AnswerInterrupted) and error.answer_at is not None:
        headers["x-should-retry"] = "false"  # a second job would answer the same request
    if isinstance(error, JobEnded):
        # OpenAI's client repeats a 409 and every 5xx on its own. This job has had its attempts, so
        # the caller must decide about another one.
        headers["x-should-retry"] = "false"
    return Response(
        to_json(error.as_openai()), status, headers=headers, media_type="application/json"
    )


def _retry_after(wait_s: float) -> dict[str, str]:
    """Make the headers with the time to wait: never shorter than `wait_s`, and spread."""
    spread_s = max(wait_s * SPREAD, LEAST_SPREAD_S)
    ms = min(1000 * (wait_s + spread_s * random.random()), 1000 * LATEST_S)  # noqa: S311
    # OpenAI's clients read the first; the second is HTTP's, in whole seconds.
    return {"retry-after-ms": f"{ms:.0f}", "Retry-After": str(math.ceil(ms / 1000))}


async def _on_error(request: Request, exc: Exception) -> Response:
    error = exc if isinstance(exc, LengthwiseError) else LengthwiseError(str(exc))
    return _error_response(error, status_of(error))


async def _on_wrong_parameter(request: Request, exc: Exception) -> Response:
    first = exc.errors()[0] if isinstance(exc, RequestValidationError) else {}
    param = str(first.get("loc", ("",))[-1])
    return _error_response(BadRequest(f"`{param}` is wrong: {first.get('msg')}.", param=param), 400)


async def _on_no_route(request: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    method, path = request.method, request.scope["path"]  # of `//a/b`, the URL's path is `/b`
    if status == 405:
        return _error_response(WrongMethod(f"{method} {path}", allowed=_allowed(request)), status)
    meant = suggestion(method, path, _routes())
    hint = (
        "GET /openapi.json lists all URLs."
        if meant is None
        else f"Did you mean {method} {meant}? The base URL of an OpenAI client ends with /v1."
    )
    return _error_response(
        BadRequest(f"There is no {method} {path}. {hint}", code="unknown_url"), status
    )


def _routes() -> list[Route]:
    return [route for router in _ROUTERS for route in router.routes if isinstance(route, Route)]


def _allowed(request: Request) -> str:
    """Return the methods of a path. FastAPI would name only those of its first route."""
    routes = _routes()
    matching = (r.path for r in routes if r.matches(request.scope)[0] is not Match.NONE)
    path = next(matching, None)
    methods = {m for r in routes if r.path == path for m in r.methods or ()}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


async def _on_disconnect(request: Request, exc: Exception) -> Response:
    of(request).metrics.requests.labels("", "client_disconnected").inc()
    return Response(status_code=CLIENT_CLOSED_REQUEST)  # it has no reader


async def _on_bug(request: Request, exc: Exception) -> Response:
    # The server logs the traceback. The client gets no details.
    log.error("internal error", extra={"request_id": request_id_of(request)})
    return _error_response(LengthwiseError("Internal error. The log of the server has more."), 500)
