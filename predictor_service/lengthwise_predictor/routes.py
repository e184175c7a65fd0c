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
    """Add every route to the application."""

    @app.post("/v1/predict", response_model=Prediction)
    async def predict(request: Request) -> Response:
        """Predict the length of one answer, as quantiles."""
        return await _respond(request, _predict)

    @app.post("/v1/predict/batch")
    async def predict_batch(request: Request) -> Response:
        """Predict many lengths at once, in the order of the inputs."""
        return await _respond(request, _predict_batch)

    @app.post("/v1/rank", response_model=RankResponse)
    async def rank(request: Request) -> Response:
        """Rank prompts by the predicted length of their answers: order and scores."""
        return await _respond(request, _rank)

    @app.get("/v1/model")
    async def model(request: Request) -> Response:
        """Return the card of the default model: version, LLMs, training data, measurements."""
        served = registry_of(request).all()
        if not served:
            return error_response(
                NotReady("the model is still being loaded; try again", retry_after_s=1)
            )
        loaded = served[0].model
        return Response(json.dumps({**loaded.card, "provider": loaded.provider}), media_type=_JSON)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        """Return every served model with its card, the default first."""
        data = [
            {"id": one.name, "provider": one.model.provider, "card": one.model.card}
            for one in registry_of(request).all()
        ]
        return Response(json.dumps({"object": "list", "data": data}), media_type=_JSON)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Report that the process is alive."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(request: Request) -> Response:
        """Report whether the default model is loaded, and the state of each model's folder."""
        models = registry_of(request)
        if not models.ready:
            return error_response(
                NotReady("the model is still being loaded; try again", retry_after_s=1)
            )
        each = {
            name: {"model_version": models.version(name), "problem": models.problem(name)}
            for name in models.names()
        }
        state = {"status": "ready", "model_version": models.version(DEFAULT), "models": each}
        return Response(json.dumps(state), media_type=_JSON)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Return the metrics as Prometheus text."""
        return Response(
            generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST
        )


async def _predict(request: Request, body: bytes) -> str:
    parsed = _parse(PredictRequest, body)
    return (await predict_all(request, [parsed]))[0].model_dump_json(exclude_none=True)


async def _predict_batch(request: Request, body: bytes) -> str:
    parsed = _parse(PredictBatchRequest, body)
    predictions = await predict_all(request, parsed.inputs)
    return (
        f'{{"predictions":[{",".join(p.model_dump_json(exclude_none=True) for p in predictions)}]}}'
    )


async def _rank(request: Request, body: bytes) -> str:
    parsed = _parse(RankRequest, body)
    predictions = await predict_all(
        request,
        [
            PredictRequest(
                model=parsed.model,
                prompt=one if isinstance(one, str) else None,
                messages=None if isinstance(one, str) else one,
                predictor=parsed.predictor,
            )
            for one in parsed.prompts
        ],
    )
    scores = [prediction.rank_score for prediction in predictions]
    ranked = RankResponse(
        model_version=predictions[0].model_version,
        order=sorted(range(len(scores)), key=scores.__getitem__),
        scores=scores,
        p50_tokens=[prediction.p50_tokens for prediction in predictions],
    )
    return ranked.model_dump_json()


def _parse(kind: type[B], body: bytes) -> B:
    try:
        return kind.model_validate_json(body)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or None
        message = first["msg"].removeprefix("Value error, ")
        raise BadRequest(f"{where}: {message}" if where else message, param=where) from exc


async def _respond(
    request: Request, respond: Callable[[Request, bytes], Awaitable[str]]
) -> Response:
    """Read a bounded body and respond; an error becomes OpenAI's error object."""
    metrics: Metrics = request.app.state.metrics
    began = time.perf_counter()
    path = request.url.path
    try:
        body = await _body(request, request.app.state.settings.max_body_bytes)
        response = Response(await respond(request, body), media_type=_JSON)
    except PredictorError as exc:
        response = error_response(exc)
    except Exception:  # the outermost handler: every request gets a response
        log.exception("prediction failed", extra={"path": path})
        response = error_response(PredictorError("the prediction failed; see the predictor's log"))
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
