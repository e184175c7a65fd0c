"""The predictor's HTTP face: how long will this answer be?

Called by the queue service, which waits at most 20 ms for an answer and goes on without one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from lengthwise_contract.prediction import (
    PredictBatchRequest,
    Prediction,
    PredictRequest,
    RankRequest,
    RankResponse,
)
from lengthwise_contract.prompts import clip, render_prompt
from lengthwise_predictor.batching import Row
from lengthwise_predictor.errors import (
    BadRequest,
    BodyTooLarge,
    ModelUnusable,
    NoSuchModel,
    NotReady,
    Overloaded,
    PredictorError,
)
from lengthwise_predictor.metrics import Metrics
from lengthwise_predictor.model import ANY_LLM
from lengthwise_predictor.models import DEFAULT, Models
from lengthwise_predictor.settings import PredictorSettings

log = logging.getLogger(__name__)

#: Error to HTTP status, the nearest class first; whatever is not here is 500.
STATUSES: dict[type[PredictorError], int] = {
    BodyTooLarge: 413,
    NoSuchModel: 404,
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

    models = Models(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            with _on_hangup(models.reload_soon):
                try:
                    await models.start()
                except ModelUnusable as exc:
                    app.state.unusable = exc.message
                    raise
                yield
        finally:
            await models.stop()

    app = FastAPI(title="Lengthwise predictor", lifespan=lifespan)
    app.state.settings, app.state.metrics, app.state.models = settings, metrics, models
    app.state.unusable = ""  # why it did not start
    app.add_exception_handler(HTTPException, _http_error)
    _add_routes(app)
    return app


@contextmanager
def _on_hangup(act: Callable[[], None]) -> Iterator[None]:
    """Act on SIGHUP meanwhile; where the loop cannot have signals (a test's thread), never."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGHUP, act)
    except (ValueError, RuntimeError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _add_routes(app: FastAPI) -> None:
    @app.post("/v1/predict", response_model=Prediction)
    async def predict(request: Request) -> Response:
        """One answer's length, as quantiles."""
        return await _answer(request, _predict)

    @app.post("/v1/predict/batch")
    async def predict_batch(request: Request) -> Response:
        """Many at once, in the order asked."""
        return await _answer(request, _predict_batch)

    @app.post("/v1/rank", response_model=RankResponse)
    async def rank(request: Request) -> Response:
        """Which of some answers will be short: their order and scores."""
        return await _answer(request, _rank)

    @app.get("/v1/model")
    async def model(request: Request) -> Response:
        """What is loaded: version, LLMs it knows, how it was trained, what was measured."""
        served = _models(request).all()
        if not served:
            return _error(NotReady("the model is still being loaded; try again", retry_after_s=1))
        loaded = served[0].model
        return Response(json.dumps({**loaded.card, "provider": loaded.provider}), media_type=_JSON)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        """Every model that is served, the default first, with its card."""
        data = [
            {"id": one.name, "provider": one.model.provider, "card": one.model.card}
            for one in _models(request).all()
        ]
        return Response(json.dumps({"object": "list", "data": data}), media_type=_JSON)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(request: Request) -> Response:
        """The default model is loaded and serving; and what became of each model's folder."""
        models = _models(request)
        if not models.ready:
            return _error(NotReady("the model is still being loaded; try again", retry_after_s=1))
        each = {
            name: {"model_version": models.version(name), "problem": models.problem(name)}
            for name in models.names()
        }
        said = {"status": "ready", "model_version": models.version(DEFAULT), "models": each}
        return Response(json.dumps(said), media_type=_JSON)

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


async def _rank(request: Request, body: bytes) -> str:
    asked = _parse(RankRequest, body)
    answers = await _predictions(
        request,
        [
            PredictRequest(
                model=asked.model,
                prompt=one if isinstance(one, str) else None,
                messages=None if isinstance(one, str) else one,
                predictor=asked.predictor,
            )
            for one in asked.prompts
        ],
    )
    scores = [answer.rank_score for answer in answers]
    ranked = RankResponse(
        model_version=answers[0].model_version,
        order=sorted(range(len(scores)), key=scores.__getitem__),
        scores=scores,
        p50_tokens=[answer.p50_tokens for answer in answers],
    )
    return ranked.model_dump_json()


def _models(request: Request) -> Models:
    return cast(Models, request.app.state.models)


async def _predictions(request: Request, asked: Sequence[PredictRequest]) -> list[Prediction]:
    """The answers, in order; those of one model in one go."""
    models = _models(request)
    texts = [_text(one) for one in asked]
    served = [models.of(one.model, one.predictor) for one in asked]
    # Until all have begun nothing is awaited, so that no model can be let go meanwhile.
    groups: dict[str, list[int]] = {}
    for place, one in enumerate(served):
        groups.setdefault(one.name, []).append(place)
    unknown = sum(
        one.model.llm_row(a.model) == ANY_LLM for one, a in zip(served, asked, strict=True)
    )
    if unknown:
        request.app.state.metrics.unknown_llm.inc(unknown)
    begun: list[tuple[list[int], asyncio.Future[list[list[Row]]]]] = []
    try:
        for places in groups.values():
            batcher = served[places[0]].batcher
            begun.append((places, batcher.begin([(texts[p], asked[p].model) for p in places])))
        found: dict[int, Prediction] = {}
        for places, rows in begun:
            model = served[places[0]].model
            flat = [row for part in await rows for row in part]
            found |= {p: model.prediction(row) for p, row in zip(places, flat, strict=True)}
    except BaseException:
        for _, rows in begun:
            rows.cancel()  # nobody waits for the others any more
        raise
    return [found[place] for place in range(len(asked))]


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
        f"{said}; the predictor serves POST /v1/predict, /v1/predict/batch and /v1/rank, "
        "GET /v1/model, /v1/models, /healthz, /readyz and /metrics",
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
