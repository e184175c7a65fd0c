"""The routes of the generating endpoints, such as chat and completions: one for each endpoint."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from lengthwise_queue.admission.job_options import JobOptions, key_from
from lengthwise_queue.auth import SECURED, tenant_of
from lengthwise_queue.openai.delivery import JOB_ID_HEADER, deliver, deliver_stream
from lengthwise_queue.openai.endpoint import Endpoint
from lengthwise_queue.openai.registry import ENDPOINTS
from lengthwise_queue.openai.request_tracker import RequestTracker
from lengthwise_queue.service import of
from lengthwise_queue.web import openapi
from lengthwise_queue.web.request_body import parse_object, read_body
from lengthwise_queue.web.request_id import request_id_of

router = APIRouter(tags=["openai"], dependencies=SECURED, responses=openapi.ALWAYS)

_ANSWER: openapi.Responses = {
    200: {
        "description": "The engine's answer, unchanged; with `stream: true`, its events",
        "headers": {JOB_ID_HEADER: {"schema": {"type": "string"}}},
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {},
        },
    }
}


async def serve(request: Request, endpoint: Endpoint[Any]) -> Response:
    """Serve one request: read it, check it, submit it as a job, and deliver the answer."""
    started_s = time.perf_counter()
    service, tenant = of(request), tenant_of(request)
    with service.metrics.counting_refusals():
        body = await read_body(request, service.settings.max_body_bytes)
        parsed = endpoint.parse(parse_object(body))
        key = key_from(request.headers.get("idempotency-key"))
    options = JobOptions(idempotency_key=key, request_id=request_id_of(request))
    job = await service.admission.submit(tenant, endpoint.path, body, parsed, options)
    tracker = RequestTracker(service, job, started_s)
    if parsed.stream:
        return await deliver_stream(tracker, endpoint, request.receive)
    return await deliver(tracker, request.receive)


def _add_route(endpoint: Endpoint[Any]) -> None:
    async def route(request: Request) -> Response:
        return await serve(request, endpoint)

    router.add_api_route(
        endpoint.path,
        route,
        methods=["POST"],
        name=endpoint.name,
        description=endpoint.description,
        response_model=None,
        responses=_ANSWER | openapi.errors(400, 404, 409, 413, 415, 422, 429, 502, 504),
        openapi_extra=openapi.json_body(endpoint.request_model) | openapi.IDEMPOTENCY_KEY,
    )


for _endpoint in ENDPOINTS:
    _add_route(_endpoint)
