"""The OpenAI face: chat and completions through the queue, and the models that there are."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from lengthwise_contract.jobs import EndpointPath
from lengthwise_queue.admission.job_options import JobOptions, key_from
from lengthwise_queue.auth import SECURED, tenant_of
from lengthwise_queue.metrics import refusal
from lengthwise_queue.openai import answers, validate
from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_queue.service import of
from lengthwise_queue.web import openapi
from lengthwise_queue.web.request_body import parse_object, read_body
from lengthwise_store.errors import LengthwiseError

router = APIRouter(tags=["openai"], dependencies=SECURED, responses=openapi.ALWAYS)

_ERRORS = openapi.errors(400, 404, 409, 413, 415, 422, 429, 502, 504)


@router.post(
    "/v1/chat/completions",
    response_model=None,
    responses=openapi.COMPLETION | _ERRORS,
    openapi_extra=openapi.json_body(openapi.CHAT_BODY) | openapi.IDEMPOTENCY_KEY,
)
async def chat_completions(request: Request) -> Response:
    """OpenAI's chat completions. The body reaches the engine byte by byte as it came.

    The job's id is in the header `X-Lengthwise-Job-Id`. A client that hangs up cancels its job,
    unless it sent an `Idempotency-Key`: then it may come back for the same one.
    """
    return await _serve(request, "/v1/chat/completions")


@router.post(
    "/v1/completions",
    response_model=None,
    responses=openapi.COMPLETION | _ERRORS,
    openapi_extra=openapi.json_body(openapi.COMPLETION_BODY) | openapi.IDEMPOTENCY_KEY,
)
async def completions(request: Request) -> Response:
    """OpenAI's completions; see chat completions."""
    return await _serve(request, "/v1/completions")


async def _serve(request: Request, endpoint: EndpointPath) -> Response:
    started_s = time.perf_counter()
    service = of(request)
    try:
        body = await read_body(request, service.settings.max_body_bytes)
        checked = validate.check(endpoint, parse_object(body))
        key = key_from(request.headers.get("idempotency-key"))
    except LengthwiseError as exc:
        service.metrics.requests.labels("", refusal(exc)).inc()
        raise
    wishes = JobOptions(idempotency_key=key)
    ticket = await service.admission.submit(tenant_of(request), endpoint, body, checked, wishes)
    visit = answers.RequestTracker(service, ticket, started_s)
    answer = answers.streaming if checked.stream else answers.plain
    return await answer(visit, request.receive)


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The models that can be asked: the queues that there are, for this tenant."""
    tenant = tenant_of(request)
    snapshots = await of(request).queue_cache.read_all()
    data = [_model(snapshot) for snapshot in snapshots if tenant.may_use(snapshot.queue.name)]
    return {"object": "list", "data": data}


@router.get("/v1/models/{model:path}", responses=openapi.errors(404))
async def model(request: Request, model: str) -> dict[str, Any]:
    """One model."""
    return _model(await of(request).queue_cache.get(tenant_of(request), model))


def _model(snapshot: QueueSnapshot) -> dict[str, Any]:
    return {
        "id": snapshot.queue.name,
        "object": "model",
        "created": 0,  # OpenAI's type wants a time; when the weights were made, nobody knows here
        "owned_by": "lengthwise",
        "max_model_len": snapshot.settings.max_model_len,
    }
