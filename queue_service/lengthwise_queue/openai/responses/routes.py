"""OpenAI's responses: create, also in the background; retrieve, stream, cancel, delete."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import uuid_utils
from fastapi import APIRouter, Query, Request
from pydantic_core import to_json
from starlette.responses import Response

from lengthwise_queue.admission.job_options import JobOptions, key_from
from lengthwise_queue.admission.parsed_request import ParsedRequest
from lengthwise_queue.admission.submit import SubmittedJob
from lengthwise_queue.auth import SECURED, tenant_of
from lengthwise_queue.errors import BadRequest
from lengthwise_queue.openai.chat import CHAT
from lengthwise_queue.openai.delivery import JOB_ID_HEADER
from lengthwise_queue.openai.request_tracker import RequestTracker
from lengthwise_queue.openai.responses import conversation, views
from lengthwise_queue.openai.responses.request import ResponseRequest, translate
from lengthwise_queue.openai.responses.response_object import (
    AssembledMessage,
    response_id,
    response_object,
)
from lengthwise_queue.openai.responses.stream import ResponseEventStream, deliver
from lengthwise_queue.service import Service, of
from lengthwise_queue.web import openapi
from lengthwise_queue.web.request_body import parse_object, read_body
from lengthwise_queue.web.request_id import request_id_of
from lengthwise_store.errors import LengthwiseError, StoreUnavailable
from lengthwise_store.responses.record import ResponseRecord

router = APIRouter(tags=["responses"], dependencies=SECURED, responses=openapi.ALWAYS)

#: How long a record is kept beyond its job's deadline, ms: as long as the ended job is.
KEEP_MS = 3_600_000 + 60_000

#: A field of the chat request -> the field of the client's request that it was made of.
_PARAMS = {"max_tokens": "max_output_tokens", "messages": "input"}

_OK: openapi.Responses = {
    200: {
        "description": "The response object; with `stream`, its events",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {},
        },
    }
}


@router.post(
    "/v1/responses",
    response_model=None,
    responses=_OK | openapi.errors(400, 404, 409, 413, 415, 422, 429, 502, 504),
    openapi_extra=openapi.json_body(ResponseRequest) | openapi.IDEMPOTENCY_KEY,
)
async def create_response(request: Request) -> Response:
    """Create a response. With `background` it is returned at once, and retrieved later.

    A client that disconnects cancels its response, unless it is a background response.
    """
    started_s = time.perf_counter()
    service, tenant = of(request), tenant_of(request)
    limit = service.settings.max_body_bytes
    with service.metrics.counting_refusals(), _params_of_the_client():
        raw = await read_body(request, limit)
        translated = translate(parse_object(raw))
        earlier = await conversation.continued(service, tenant.name, translated)
        chat = translated.chat_request(earlier.messages)
        body = to_json(chat)
        if earlier.previous is not None and len(body) > limit:
            raise conversation.too_long(len(body), limit)
        parsed = CHAT.parse(chat)
        key = key_from(request.headers.get("idempotency-key"))
        snapshot = await service.queue_cache.get(tenant, parsed.model)
    job_id = str(uuid_utils.uuid7())
    own = response_id(job_id)
    record = ResponseRecord(
        id=own,
        job_id=job_id,
        queue=snapshot.queue.name,
        tenant=tenant.name,
        created_ms=await service.responses.now_ms(own),
        background=translated.background,
        echo=translated.echo,
        items=translated.input_items,
        earlier=earlier.ids,
    )
    if translated.store:
        ttl_ms = snapshot.settings.request_ttl_ms + KEEP_MS
        if earlier.previous is not None:
            await service.responses.put_turn(earlier.previous, earlier.last_turn, ttl_ms)
        await service.responses.put(record, ttl_ms)
    options = JobOptions(
        idempotency_key=key,
        job_id=job_id,
        once=True,
        request=raw,
        request_id=request_id_of(request),
    )
    job = await _submit(request, record, body, parsed, options)
    with _naming(job):
        record = await _record_of(request, record, job, stored=translated.store)
        if translated.background:
            service.metrics.requests.labels(job.queue, "accepted").inc()
            if translated.stream:
                return ResponseEventStream(service, record)
            if not job.accepted.duplicate:
                return _json(response_object(record, "queued", AssembledMessage()), job)
            return _json(await views.view(service, record), job)
    at = f"/v1/responses/{record.id}" if translated.store else None
    tracker = RequestTracker(service, job, started_s, answer_at=at)
    if translated.stream:
        return ResponseEventStream(service, record, tracker=tracker)
    return await deliver(tracker, record, request.receive)


@router.get(
    "/v1/responses/{response_id}",
    response_model=None,
    responses=_OK | openapi.errors(400, 404),
)
async def get_response(
    request: Request,
    response_id: str,
    stream: bool = False,
    starting_after: int | None = Query(
        default=None, ge=-1, description="With `stream`: only events after this sequence number"
    ),
) -> Response:
    """Retrieve a response in its current state, or with `stream` its events."""
    service = of(request)
    record = await _record(request, response_id)
    if not stream:
        return _json(await views.view(service, record))
    await views.job_of(service, record)
    after = -1 if starting_after is None else starting_after
    return ResponseEventStream(service, record, after=after)


@router.post(
    "/v1/responses/{response_id}/cancel",
    response_model=None,
    responses=openapi.errors(400, 404),
)
async def cancel_response(request: Request, response_id: str) -> Response:
    """Cancel a background response. A response that has ended does not change."""
    service = of(request)
    record = await _record(request, response_id)
    if not record.background:
        raise BadRequest(
            "Only a response with `background` can be cancelled. To cancel another one, close its "
            "connection.",
            code="not_a_background_response",
        )
    await service.store.cancel(record.queue, record.job_id)
    return _json(await views.view(service, record))


@router.delete("/v1/responses/{response_id}", response_model=None, responses=openapi.errors(404))
async def delete_response(request: Request, response_id: str) -> Response:
    """Delete a response. If it has not ended, it is cancelled."""
    service = of(request)
    record = await _record(request, response_id)
    await service.store.cancel(record.queue, record.job_id)
    await service.responses.drop(record.id)
    return _json({"id": record.id, "object": "response", "deleted": True})


@router.get(
    "/v1/responses/{response_id}/input_items",
    response_model=None,
    responses=openapi.errors(400, 404),
)
async def list_input_items(
    request: Request,
    response_id: str,
    after: str | None = Query(default=None, max_length=100),
    limit: int = Query(default=20, ge=1, le=100),
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """List the input items of a response."""
    record = await _record(request, response_id)
    own = record.id.removeprefix("resp_")
    items = [{"id": f"in_{own}_{place}"} | item for place, item in enumerate(record.items)]
    if order == "desc":
        items.reverse()
    ids = [item["id"] for item in items]
    start = ids.index(after) + 1 if after in ids else 0
    page = items[start : start + limit]
    more = start + limit < len(items)
    first, last = (page[0]["id"], page[-1]["id"]) if page else ("", "")
    return _json(
        {"object": "list", "data": page, "first_id": first, "last_id": last, "has_more": more}
    )


@contextlib.contextmanager
def _params_of_the_client() -> Iterator[None]:
    """Make errors name fields of the client's request, and not those of the chat request."""
    try:
        yield
    except BadRequest as exc:
        # The places of messages differ from those of items, so they are left out.
        exc.param = _PARAMS.get((exc.param or "").partition("[")[0], exc.param)
        raise


async def _submit(
    request: Request,
    record: ResponseRecord,
    chat: bytes,
    parsed: ParsedRequest,
    options: JobOptions,
) -> SubmittedJob:
    service = of(request)
    try:
        return await service.admission.submit(tenant_of(request), CHAT.path, chat, parsed, options)
    except LengthwiseError as exc:
        # With a key, the job may have been stored, and the repeated request finds its record.
        if options.idempotency_key is None or not isinstance(exc, StoreUnavailable):
            service.tasks.start(_forget(service, record))
        raise


async def _record_of(
    request: Request, own: ResponseRecord, job: SubmittedJob, *, stored: bool
) -> ResponseRecord:
    """Return the record of a job: of the first request, if the idempotency key was used before."""
    found = response_id(job.accepted.id)
    if not stored:
        # The first request was the same, so its record is this one.
        created_ms = int(job.accepted.accepted_ms)
        return replace(own, id=found, job_id=job.accepted.id, created_ms=created_ms)
    if not job.accepted.duplicate:
        return own
    service = of(request)
    service.tasks.start(_forget(service, own))
    return await _record(request, found)


@contextlib.contextmanager
def _naming(job: SubmittedJob) -> Iterator[None]:
    """Make errors name the job, which was accepted."""
    try:
        yield
    except StoreUnavailable as exc:
        exc.job_id = job.accepted.id
        raise


async def _forget(service: Service, record: ResponseRecord) -> None:
    """Drop the record of a response that was not accepted."""
    with contextlib.suppress(StoreUnavailable):  # then it expires
        await service.responses.drop(record.id)


async def _record(request: Request, response_id: str) -> ResponseRecord:
    record = await of(request).responses.get(tenant_of(request).name, response_id)
    if record is None:
        raise views.not_found()
    return record


def _json(body: dict[str, Any], job: SubmittedJob | None = None) -> Response:
    headers = {} if job is None else {JOB_ID_HEADER: job.accepted.id}
    return Response(to_json(body), media_type="application/json", headers=headers)
