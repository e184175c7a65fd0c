"""The predictor's HTTP face: how long will this answer be?

Called by the queue service, which waits at most 20 ms for an answer and goes on without one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from lengthwise_contract.api import PredictBatchRequest, Prediction, PredictRequest
from lengthwise_contract.prompts import clip, render_prompt
from lengthwise_predictor.batching import Batcher
from lengthwise_predictor.errors import (
    BadRequest,
    BodyTooLarge,
    ModelUnusable,
    NotReady,
    Overloaded,
    PredictorError,
)
from lengthwise_predictor.metrics import Metrics
from lengthwise_predictor.model import ANY_LLM, LengthModel
from lengthwise_predictor.settings import PredictorSettings

log = logging.getLogger(__name__)

#: Error to HTTP status, the nearest class first; whatever is not here is 500.
STATUSES: dict[type[PredictorError], int] = {
    BodyTooLarge: 413,
    BadRequest: 400,
    Overloaded: 503,
    NotReady: 503,
    ModelUnusable: 500,
}

_JSON = "application/json"

B = TypeVar("B", bound=BaseModel)


def create_app(settings: PredictorSettings | None = None) -> FastAPI:
    """Build the service; the model is loaded when it starts, and `/readyz` says when it is up.

    Args:
        settings: None reads the environment.
    """
    settings = settings or PredictorSettings()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        model = await run_in_threadpool(_load, settings)
        batcher = Batcher(
            model,
            max_batch=settings.max_batch,
            latency_target_ms=settings.latency_target_ms,
            max_waiting=settings.max_waiting,
            on_batch=lambda size, seconds: _record_batch(metrics, size, seconds),
        )
        batcher.start()
        app.state.model, app.state.batcher = model, batcher
        metrics.info.labels(model.version, model.provider).set(1)
        metrics.waiting.set_function(lambda: batcher.waiting)
        log.info("model loaded", extra={"version": model.version, "provider": model.provider})
        try:
            yield
        finally:
            app.state.batcher = None
            await batcher.stop()

    app = FastAPI(title="Lengthwise predictor", lifespan=lifespan)
    app.state.settings, app.state.metrics = settings, metrics
    app.state.model, app.state.batcher = None, None
    app.add_exception_handler(HTTPException, _http_error)
    _add_routes(app)
    return app


def _load(settings: PredictorSettings) -> LengthModel:
    model = LengthModel(
        settings.model_dir,
        provider=settings.provider,
        intra_op_threads=settings.intra_op_threads,
    )
    model.warm_up(settings.max_batch)
    return model


def _record_batch(metrics: Metrics, size: int, seconds: float) -> None:
    metrics.batch_size.observe(size)
    metrics.batch_seconds.observe(seconds)


def _add_routes(app: FastAPI) -> None:
    @app.post("/v1/predict", response_model=Prediction)
    async def predict(request: Request) -> Response:
        """One answer's length, as quantiles."""
        return await _answer(request, _predict)

    @app.post("/v1/predict/batch")
    async def predict_batch(request: Request) -> Response:
        """Many at once, in the order asked."""
        return await _answer(request, _predict_batch)

    @app.get("/v1/model")
    async def model(request: Request) -> Response:
        """What is loaded: version, LLMs it knows, how it was trained, what was measured."""
        loaded: LengthModel | None = request.app.state.model
        if loaded is None:
            return _error(NotReady("the model is still being loaded; try again", retry_after_s=1))
        return Response(json.dumps({**loaded.card, "provider": loaded.provider}), media_type=_JSON)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(request: Request) -> Response:
        """The model is loaded and serving."""
        if request.app.state.batcher is None:
            return _error(NotReady("the model is still being loaded; try again", retry_after_s=1))
        version = request.app.state.model.version
        return Response(json.dumps({"status": "ready", "model_version": version}), media_type=_JSON)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Prometheus text."""
        return Response(
            generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST
        )


async def _predict(request: Request, body: bytes) -> str:
    asked = _parse(PredictRequest, body)
    return (await _predictions(request, [asked]))[0].model_dump_json()


async def _predict_batch(request: Request, body: bytes) -> str:
    asked = _parse(PredictBatchRequest, body)
    answers = await _predictions(request, asked.inputs)
    return f'{{"predictions":[{",".join(a.model_dump_json() for a in answers)}]}}'


async def _predictions(request: Request, asked: Sequence[PredictRequest]) -> list[Prediction]:
    state = request.app.state
    model: LengthModel | None = state.model
    batcher: Batcher | None = state.batcher
    if model is None or batcher is None:
        raise NotReady("the model is still being loaded; try again", retry_after_s=1)
    unknown = sum(model.llm_row(a.model) == ANY_LLM for a in asked)
    if unknown:
        state.metrics.unknown_llm.inc(unknown)
    rows = await batcher.predict([(_text(a), a.model) for a in asked])
    return [model.prediction(row) for row in rows]


def _text(asked: PredictRequest) -> str:
    """The one text to read, clipped at once so that what waits in line is small."""
    if asked.prompt is not None:
        return clip(asked.prompt)
    return clip(render_prompt(asked.messages or []))


def _parse(kind: type[B], body: bytes) -> B:
    try:
        return kind.model_validate_json(body)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or None
        said = first["msg"].removeprefix("Value error, ")
        raise BadRequest(f"{where}: {said}" if where else said, param=where) from exc


async def _answer(
    request: Request, respond: Callable[[Request, bytes], Awaitable[str]]
) -> Response:
    """Read a bounded body, respond, and turn what went wrong into OpenAI's error object."""
    metrics: Metrics = request.app.state.metrics
    began = time.perf_counter()
    path = request.url.path
    try:
        body = await _body(request, request.app.state.settings.max_body_bytes)
        response = Response(await respond(request, body), media_type=_JSON)
    except PredictorError as exc:
        response = _error(exc)
    except Exception:  # the edge: nothing below it may end a connection without an answer
        log.exception("prediction failed", extra={"path": path})
        response = _error(PredictorError("the predictor failed; its log says why"))
    metrics.requests.labels(path, str(response.status_code)).inc()
    metrics.latency.labels(path).observe(time.perf_counter() - began)
    return response


async def _body(request: Request, limit: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BodyTooLarge(
                f"the body is over {limit} bytes; send less text or fewer inputs, "
                "or raise LENGTHWISE_PREDICTOR_MAX_BODY_BYTES"
            )
        parts.append(part)
    return b"".join(parts)


def _error(exc: PredictorError) -> Response:
    status = next((STATUSES[c] for c in type(exc).__mro__ if c in STATUSES), 500)
    headers = {} if exc.retry_after_s is None else {"Retry-After": str(exc.retry_after_s)}
    return _error_body(status, exc.message, exc.type, exc.code, exc.param, headers)


async def _http_error(request: Request, exc: Exception) -> Response:
    """An unknown path or method, in the same shape as every other error."""
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    detail = exc.detail if isinstance(exc, HTTPException) else exc
    said = f"{request.method} {request.url.path}: {detail}"
    return _error_body(
        status,
        f"{said}; the predictor serves POST /v1/predict and /v1/predict/batch, "
        "GET /v1/model, /healthz, /readyz and /metrics",
        "invalid_request_error",
        "not_found" if status == 404 else "invalid_request",
        None,
        dict(getattr(exc, "headers", None) or {}),
    )


def _error_body(
    status: int, message: str, kind: str, code: str, param: str | None, headers: dict[str, str]
) -> Response:
    body: dict[str, Any] = {
        "error": {"message": message, "type": kind, "param": param, "code": code}
    }
    return Response(json.dumps(body), status_code=status, headers=headers, media_type=_JSON)
