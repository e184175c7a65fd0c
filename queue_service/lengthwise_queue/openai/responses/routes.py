"""OpenAI's responses: ask, also in the background; look, read the events, withdraw, delete."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Literal

import uuid_utils
from fastapi import APIRouter, Query, Request
from pydantic_core import to_json
from starlette.responses import Response

from lengthwise_contract.jobs import EndpointPath
from lengthwise_contract.states import TERMINAL, JobState
from lengthwise_queue.admission.job_options import JobOptions, key_from
from lengthwise_queue.auth import SECURED, tenant_of
from lengthwise_queue.errors import BadRequest, ObjectNotFound
from lengthwise_queue.metrics import refusal
from lengthwise_queue.openai import answers, validate
from lengthwise_queue.openai.partial_response import partial_response
from lengthwise_queue.openai.responses import request as response_request
from lengthwise_queue.openai.responses import response_object
from lengthwise_queue.openai.responses import stream as response_answers
from lengthwise_queue.openai.responses.request import Asked
from lengthwise_queue.openai.responses.response_object import Answer
from lengthwise_queue.service import Service, of
from lengthwise_queue.web import openapi
from lengthwise_queue.web.request_body import parse_object, read_body
from lengthwise_store.errors import LengthwiseError, StoreUnavailable
from lengthwise_store.jobs import Job
from lengthwise_store.output_reader import End
from lengthwise_store.responses.record import ResponseRecord

router = APIRouter(tags=["responses"], dependencies=SECURED, responses=openapi.ALWAYS)

#: What a response is for the engine.
CHAT: EndpointPath = "/v1/chat/completions"

#: How long a record is kept beyond its job's deadline, ms: as long as the ended job is.
KEEP_MS = 3_600_000 + 60_000

#: A field of the chat request -> what it was in the client's.
_PARAMS = {"max_tokens": "max_output_tokens", "messages": "input"}


_BODY: dict[str, Any] = {
    "title": "ResponseRequest",
    "type": "object",
    "required": ["model", "input"],
    "properties": {
        "model": {"type": "string", "minLength": 1, "maxLength": 256},
        "input": {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "minItems": 1, "items": {"type": "object"}},
            ]
        },
        "instructions": {"type": ["string", "null"]},
        "max_output_tokens": {"type": ["integer", "null"], "minimum": 1},
        "background": {"type": ["boolean", "null"]},
        "stream": {"type": ["boolean", "null"]},
        "store": {"type": ["boolean", "null"]},
        "previous_response_id": {"type": ["string", "null"]},
    },
}

_OK: openapi.Responses = {
    200: {
        "description": "The response; with `stream`, its events",
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
    openapi_extra=openapi.json_body(_BODY) | openapi.IDEMPOTENCY_KEY,
)
async def create_response(request: Request) -> Response:
    """Ask for a response. With `background` it is answered at once, and read later.

    A client that hangs up withdraws its response, unless it is a background one.
    """
    started_s = time.perf_counter()
    service, tenant = of(request), tenant_of(request)
    try:
        raw = await read_body(request, service.settings.max_body_bytes)
        asked = response_request.read(parse_object(raw))
        earlier = await _earlier(service, tenant.name, asked)
        messages = response_request.messages(asked, earlier)
        chat = asked.chat | {"messages": messages, "stream": True}
        checked = validate.check(CHAT, chat)
        key = key_from(request.headers.get("idempotency-key"))
        page = await service.queue_cache.get(tenant, checked.model)
    except BadRequest as exc:
        # What it was in the client's request; the places of messages are not those of items.
        exc.param = _PARAMS.get((exc.param or "").partition("[")[0], exc.param)
        service.metrics.requests.labels("", refusal(exc)).inc()
        raise
    job_id = str(uuid_utils.uuid7())
    own = response_object.response_id(job_id)
    record = ResponseRecord(
        id=own,
        job_id=job_id,
        queue=page.queue.name,
        tenant=tenant.name,
        created_ms=await service.responses.now_ms(own),
        background=asked.background,
        echo=asked.echo,
        items=asked.items,
        turns=earlier + asked.turns,
    )
    if asked.store:
        await service.responses.put(record, page.settings.request_ttl_ms + KEEP_MS)
    wishes = JobOptions(idempotency_key=key, job_id=job_id)
    try:
        ticket = await service.admission.submit(tenant, CHAT, to_json(chat), checked, wishes)
    except LengthwiseError as exc:
        service.tasks.start(_take_back(service, record, exc))
        raise
    if ticket.accepted.duplicate:
        # The idempotency key knew it: the first request's response is this one's.
        service.tasks.start(_take_back(service, record, None))
        record = await _record(request, response_object.response_id(ticket.accepted.id))
    if asked.background:
        service.metrics.requests.labels(ticket.queue, "accepted").inc()
        if asked.stream:
            return response_answers.EventStream(service, record)
        return _json(await _view(service, record))
    visit = answers.RequestTracker(service, ticket, started_s)
    if asked.stream:
        return response_answers.EventStream(service, record, visit=visit)
    return await response_answers.plain(visit, record, request.receive)


@router.get(
    "/v1/responses/{response_id}",
    response_model=None,
    responses=_OK | openapi.errors(400, 404),
)
async def get_response(
    request: Request,
    response_id: str,
    stream: bool = False,
    starting_after: int | None = Query(default=None, ge=-1),
) -> Response:
    """A response as it is now; with `stream` its events, from their start or behind a number."""
    service = of(request)
    record = await _record(request, response_id)
    if not stream:
        return _json(await _view(service, record))
    await _job(service, record)
    after = -1 if starting_after is None else starting_after
    return response_answers.EventStream(service, record, after=after)


@router.post(
    "/v1/responses/{response_id}/cancel",
    response_model=None,
    responses=openapi.errors(400, 404),
)
async def cancel_response(request: Request, response_id: str) -> Response:
    """Withdraw a background response; again, or after its end, changes nothing."""
    service = of(request)
    record = await _record(request, response_id)
    if not record.background:
        raise BadRequest(
            "Only a response with `background` can be cancelled. Close the connection of another: "
            "that withdraws it.",
            code="not_a_background_response",
        )
    await service.store.cancel(record.queue, record.job_id)
    return _json(await _view(service, record))


@router.delete("/v1/responses/{response_id}", response_model=None, responses=openapi.errors(404))
async def delete_response(request: Request, response_id: str) -> Response:
    """Forget a response, and withdraw it if it is not done."""
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
    """What a response was asked, item by item."""
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


async def _earlier(service: Service, tenant: str, asked: Asked) -> list[dict[str, Any]]:
    """The turns of the response that this one goes on from."""
    if asked.previous_response_id is None:
        return []
    record = await service.responses.get(tenant, asked.previous_response_id)
    job = None if record is None else await service.store.get(record.queue, record.job_id)
    if record is None or job is None or job.state is not JobState.SUCCEEDED:
        raise BadRequest(
            "`previous_response_id` must name a response of yours that is complete and still kept "
            "(an hour). Send the earlier turns in `input` instead.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return [*record.turns, response_object.turn_of(await _answer(service, job))]


async def _record(request: Request, response_id: str) -> ResponseRecord:
    record = await of(request).responses.get(tenant_of(request).name, response_id)
    if record is None:
        raise _missing()
    return record


async def _job(service: Service, record: ResponseRecord) -> Job:
    job = await service.store.get(record.queue, record.job_id)
    if job is None:
        raise _missing()
    return job


def _missing() -> ObjectNotFound:
    return ObjectNotFound(
        "There is no such response. Its id may be wrong, it was made with `store: false`, it was "
        "deleted, or it ended too long ago to be kept.",
        param="response_id",
    )


async def _view(service: Service, record: ResponseRecord) -> dict[str, Any]:
    job = await _job(service, record)
    answer = await _answer(service, job) if job.attempt > 0 else Answer()
    problem = None
    if job.state in TERMINAL:
        end = End(state=job.state, error=job.error, prompt_tokens=None, output_tokens=None)
        problem = end.problem(job.id)
    return response_object.view(
        record,
        response_object.status_of(job, answer),
        answer,
        problem=problem,
        completed_ms=job.finished_ms,
    )


async def _answer(service: Service, job: Job) -> Answer:
    """What there is of a response's answer."""
    return response_object.answer_of(await partial_response(service.store, job))


async def _take_back(
    service: Service, record: ResponseRecord, error: LengthwiseError | None
) -> None:
    """Forget a response that was not accepted."""
    with contextlib.suppress(StoreUnavailable):  # it goes by its TTL
        await service.responses.drop(record.id)
    if isinstance(error, StoreUnavailable):
        # The job may have been written nevertheless, and its client was told that it was not.
        await service.withdraw(record.queue, record.job_id, "submit was not confirmed")


def _json(body: dict[str, Any]) -> Response:
    return Response(to_json(body), media_type="application/json")
