"""Jobs: hand one in, look at it, withdraw it, read its output as it comes, ask why it waits."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lengthwise_contract.explanation import Explanation
from lengthwise_contract.jobs import JobList, JobRequest, JobView
from lengthwise_contract.states import TERMINAL, JobState
from lengthwise_queue.admission.job_options import JobOptions, key_from
from lengthwise_queue.api import pagination, views
from lengthwise_queue.auth import (
    SECURED,
    admin_of,
    find_job,
    named_by,
    tenant_of,
)
from lengthwise_queue.errors import BadRequest, NotRedrivable
from lengthwise_queue.metrics import refusal
from lengthwise_queue.openai import validate
from lengthwise_queue.openai.partial_response import partial_response
from lengthwise_queue.openai.sse import KEEP_ALIVE, event
from lengthwise_queue.service import Service, of
from lengthwise_queue.web import openapi
from lengthwise_queue.web.request_body import parse_object, read_body, wrong_field
from lengthwise_store.errors import LengthwiseError, StoreUnavailable
from lengthwise_store.jobs import EntryKind, Job, OutputEntry
from lengthwise_store.output_reader import ClientDisconnected, Drained, follow, while_connected

router = APIRouter(tags=["jobs"], dependencies=SECURED, responses=openapi.ALWAYS)

#: Ids of stream entries, as Redis makes them: ms and a sequence number, 64 bits each.
_ENTRY_ID = re.compile(r"\d{1,19}-\d{1,19}")

#: A comment is sent when nothing else was for so long, s.
KEEP_ALIVE_S = 10.0

_RESUME: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": where,
            "required": False,
            "description": "The id of the event to resume behind",
            "schema": {"type": "string", "pattern": r"^\d{1,19}-\d{1,19}$"},
        }
        for name, where in (("Last-Event-ID", "header"), ("last_event_id", "query"))
    ]
}


@router.post(
    "/v1/jobs",
    status_code=202,
    response_model=JobView,
    responses=openapi.known(JobView, "The idempotency key knew it already")
    | openapi.errors(400, 404, 413, 415, 422, 429),
    openapi_extra=openapi.json_body(JobRequest) | openapi.IDEMPOTENCY_KEY,
)
async def submit_job(request: Request) -> Response:
    """Hand in a job, to be answered later: 202, and 200 where the idempotency key knew it."""
    service = of(request)
    try:
        raw = await read_body(request, service.settings.max_body_bytes)
        asked = _job_request(raw)
        checked = _check_body(asked)
        key = key_from(request.headers.get("idempotency-key"))
    except LengthwiseError as exc:
        service.metrics.requests.labels("", refusal(exc)).inc()
        raise
    body = asked.body if asked.body.get("stream") is not None else asked.body | {"stream": True}
    wishes = JobOptions(
        job_class=asked.job_class if "job_class" in asked.model_fields_set else None,
        max_attempts=asked.max_attempts,
        delay_ms=asked.delay_ms,
        ttl_ms=asked.ttl_ms,
        idempotency_key=key,
    )
    payload = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    tenant = tenant_of(request)
    ticket = await service.admission.submit(tenant, asked.endpoint, payload, checked, wishes)
    service.metrics.requests.labels(ticket.queue, "accepted").inc()
    status, view = 202, views.new_job_view(ticket.queue, ticket.new, ticket.accepted)
    if ticket.accepted.duplicate:
        job = await find_job(service, tenant, ticket.accepted.id)
        status, view = 200, await _view(service, job)
    answer = _json(view, status)
    answer.headers["Location"] = f"/v1/jobs/{ticket.accepted.id}"
    return answer


@router.get("/v1/jobs", responses=openapi.errors(400, 403, 404))
async def list_jobs(
    request: Request,
    queue: Annotated[str | None, Query(description="Of this queue only")] = None,
    state: Annotated[JobState | None, Query(description="Of this state only")] = None,
    after: openapi.After = None,
    limit: openapi.PageSize = 50,
    tenant: openapi.Whose = None,
) -> JobList:
    """Your jobs: running, waiting by due time, scheduled, then ended, the newest first."""
    service = of(request)
    whose = named_by(request, tenant)
    if queue is not None:
        await service.queue_cache.get(tenant_of(request), queue)
    names = [queue] if queue else [q.name for q in await service.store.queues()]
    page = await pagination.list_jobs(
        service.store, names, whose, state=state, after=after, limit=limit
    )
    return views.job_list(page.jobs, page.after)


@router.get("/v1/jobs/{job_id}", response_model=JobView, responses=openapi.errors(404))
async def get_job(request: Request, job_id: str) -> Response:
    """A job, with its answer so far."""
    service = of(request)
    return _json(await _view(service, await find_job(service, tenant_of(request), job_id)))


@router.delete("/v1/jobs/{job_id}", response_model=JobView, responses=openapi.errors(404))
async def delete_job(request: Request, job_id: str) -> Response:
    """The same as cancel: what it did stays readable for an hour."""
    return await cancel_job(request, job_id)


@router.post("/v1/jobs/{job_id}/cancel", response_model=JobView, responses=openapi.errors(404))
async def cancel_job(request: Request, job_id: str) -> Response:
    """Withdraw a job; doing it again changes nothing. A running one ends within a heartbeat."""
    service, tenant = of(request), tenant_of(request)
    job = await find_job(service, tenant, job_id)
    await service.store.cancel(job.queue, job.id)
    return _json(await _view(service, await find_job(service, tenant, job_id)))


@router.post(
    "/v1/jobs/{job_id}/redrive",
    response_model=JobView,
    responses=openapi.errors(403, 404, 409),
)
async def redrive_job(request: Request, job_id: str) -> Response:
    """Give a dead letter a new life, with all its attempts; for admins, it passes every limit.

    Again changes nothing: a job that is on its way, or was answered since, is shown as it is.
    """
    service, tenant = of(request), admin_of(request)
    job = await find_job(service, tenant, job_id)
    state = await service.store.redrive(job.queue, job.id)
    if state is JobState.FAILED:
        raise NotRedrivable(
            "The job cannot be served again: its request is gone or unreadable. Hand in a new one."
        )
    if state in (JobState.CANCELLED, JobState.EXPIRED):
        raise NotRedrivable(
            f"The job is {state}, and only a failed one can be redriven. Hand in a new one."
        )
    return _json(await _view(service, await find_job(service, tenant, job_id)))


@router.get("/v1/jobs/{job_id}/explain", response_model=Explanation, responses=openapi.errors(404))
async def explain_job(request: Request, job_id: str) -> Response:
    """Why the job stands where it stands."""
    service = of(request)
    job = await find_job(service, tenant_of(request), job_id)
    page = await service.queue_cache.read(job.queue)
    waiting = job.state is JobState.QUEUED
    position = await service.store.position(job.queue, job.id) if waiting else None
    return _json(views.explanation(job, page, position))


@router.get(
    "/v1/jobs/{job_id}/stream",
    response_model=None,
    responses=openapi.events("`chunk`, `attempt` and `end` events")
    | {204: {"description": "There is nothing behind that event, and never will be"}}
    | openapi.errors(400, 404),
    openapi_extra=_RESUME,
)
async def stream_job(request: Request, job_id: str) -> Response:
    """The job's output as server-sent events, resumable at any replica.

    `chunk`: one event of the engine. `attempt`: a new attempt begins, forget the chunks so far.
    `end`: the last. `Last-Event-ID` (or `?last_event_id=`) resumes behind that event; 204 means
    that there is nothing behind it and never will be.
    """
    service = of(request)
    after = _resume_after(request)
    job = await find_job(service, tenant_of(request), job_id)
    if after != "0-0" and job.state in TERMINAL:
        rest = await service.store.read_output(job.queue, job.id, after=after, limit=1)
        if not rest:
            return Response(status_code=204)
    return JobStream(service, job, after)


class JobStream(Response):
    """Sends a job's output as server-sent events, until its end or the client's."""

    media_type = "text/event-stream"

    def __init__(self, service: Service, job: Job, after: str) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self.raw_headers = [h for h in self.raw_headers if h[0] != b"content-length"]
        self._service = service
        self._job = job
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        with contextlib.suppress(
            ClientDisconnected, Drained
        ):  # either way the reader may resume elsewhere
            await while_connected(receive, self._send_all(send), unless=self._service.draining)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        await _more(send, b"retry: 1000\n: job %s\n" % self._job.id.encode())
        entries = follow(
            self._service.store,
            self._job.queue,
            self._job.id,
            after=self._after,
            first_s=KEEP_ALIVE_S,
            beat_s=KEEP_ALIVE_S,
        )
        try:
            async with contextlib.aclosing(entries) as batches:
                async for batch in batches:
                    await _more(send, b"".join(map(_frame, batch)) or KEEP_ALIVE)
        except StoreUnavailable:
            return  # the reader's next try is told so by a 503


async def _more(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _frame(entry: OutputEntry) -> bytes:
    data = entry.data
    if entry.kind is EntryKind.ATTEMPT:
        data = json.dumps({"attempt": entry.attempt}).encode()
    return event(data, entry_id=entry.id, name=entry.kind)


def _job_request(raw: bytes) -> JobRequest:
    parse_object(raw)  # its messages about broken JSON are the better ones
    try:
        return JobRequest.model_validate_json(raw)
    except ValidationError as exc:
        raise wrong_field(exc) from None


def _check_body(asked: JobRequest) -> validate.ParsedRequest:
    try:
        return validate.check(asked.endpoint, asked.body)
    except BadRequest as exc:
        exc.param = None if exc.param is None else f"body.{exc.param}"
        raise


def _resume_after(request: Request) -> str:
    given = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
    if not given:
        return "0-0"
    if not _ENTRY_ID.fullmatch(given):
        raise BadRequest(
            "`Last-Event-ID` must be the `id` of an event of this stream, such as "
            "1700000000000-0. Leave it out to read from the start.",
            param="Last-Event-ID",
            code="invalid_value",
        )
    return given


async def _view(service: Service, job: Job) -> JobView:
    return views.job_view(job, await partial_response(service.store, job))


def _json(view: JobView | Explanation, status: int = 200) -> Response:
    body = view.model_dump_json(by_alias=True)
    return Response(body, status_code=status, media_type="application/json")
