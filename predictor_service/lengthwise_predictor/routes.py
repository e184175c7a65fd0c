"""The predictor's HTTP routes: read a bounded body, predict, answer in JSON.

Every route under `/v1` that predicts runs through `_respond`, which counts and times the request
and turns an error into OpenAI's error object. Called by `app.create_app`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError

from lengthwise_contract.prediction import (
    PredictBatchRequest,
    Prediction,
    PredictRequest,
    RankRequest,
    RankResponse,
)
from lengthwise_predictor.error_responses import error_response
from lengthwise_predictor.errors import BadRequest, BodyTooLarge, NotReady, PredictorError
from lengthwise_predictor.metrics import Metrics
from lengthwise_predictor.model_registry import DEFAULT
from lengthwise_predictor.predict import predict_all, registry_of

log = logging.getLogger(__name__)

_JSON = "application/json"


B = TypeVar("B", bound=BaseModel)


def add_routes(app: FastAPI) -> None:
    @app.post("/v1/predict", response_model=Prediction)
    async def predict(request: Request) -> Response:
        """One answer's length, as quantiles."""
        return await _respond(request, _predict)

    @app.post("/v1/predict/batch")
    async def predict_batch(request: Request) -> Response:
        """Many at once, in the order asked."""
        return await _respond(request, _predict_batch)

    @app.post("/v1/rank", response_model=RankResponse)
    async def rank(request: Request) -> Response:
        """Which of some answers will be short: their order and scores."""
        return await _respond(request, _rank)

    @app.get("/v1/model")
    async def model(request: Request) -> Response:
        """What is loaded: version, LLMs it knows, how it was trained, what was measured."""
        served = registry_of(request).all()
        if not served:
            return error_response(
                NotReady("the model is still being loaded; try again", retry_after_s=1)
            )
        loaded = served[0].model
        return Response(json.dumps({**loaded.card, "provider": loaded.provider}), media_type=_JSON)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        """Every model that is served, the default first, with its card."""
        data = [
            {"id": one.name, "provider": one.model.provider, "card": one.model.card}
            for one in registry_of(request).all()
        ]
        return Response(json.dumps({"object": "list", "data": data}), media_type=_JSON)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(request: Request) -> Response:
        """The default model is loaded and serving; and what became of each model's folder."""
        models = registry_of(request)
        if not models.ready:
            return error_response(
                NotReady("the model is still being loaded; try again", retry_after_s=1)
            )
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
    return (await predict_all(request, [asked]))[0].model_dump_json()


async def _predict_batch(request: Request, body: bytes) -> str:
    asked = _parse(PredictBatchRequest, body)
    answers = await predict_all(request, asked.inputs)
    return f'{{"predictions":[{",".join(a.model_dump_json() for a in answers)}]}}'


async def _rank(request: Request, body: bytes) -> str:
    asked = _parse(RankRequest, body)
    answers = await predict_all(
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


def _parse(kind: type[B], body: bytes) -> B:
    try:
        return kind.model_validate_json(body)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or None
        said = first["msg"].removeprefix("Value error, ")
        raise BadRequest(f"{where}: {said}" if where else said, param=where) from exc


async def _respond(
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
        response = error_response(exc)
    except Exception:  # the edge: nothing below it may end a connection without an answer
        log.exception("prediction failed", extra={"path": path})
        response = error_response(PredictorError("the predictor failed; its log says why"))
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
