"""Jobs: submit, list, view, cancel and redrive them; stream their output; explain their place."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from starlette.types import Send

from lengthwise_contract.explanation import Explanation
from lengthwise_contract.jobs import JobList, JobRequest, JobView
from lengthwise_contract.states import TERMINAL, JobState
from lengthwise_queue.admission.job_options import JobOptions, key_from
from lengthwise_queue.admission.parsed_request import ParsedRequest
from lengthwise_queue.api import pagination, views
from lengthwise_queue.api.explanation import explanation
from lengthwise_queue.auth import SECURED, admin_of, find_job, named_by, tenant_of
from lengthwise_queue.errors import BadRequest, NotRedrivable
from lengthwise_queue.learning.similar_jobs import similar_jobs
from lengthwise_queue.openai.partial_response import partial_response
from lengthwise_queue.openai.registry import endpoint_at
from lengthwise_queue.service import Service, of
from lengthwise_queue.web import openapi
from lengthwise_queue.web.listing import After, PageSize, TenantName
from lengthwise_queue.web.request_body import parse_model, read_body
from lengthwise_queue.web.request_id import request_id_of
from lengthwise_queue.web.server_sent_events import KEEP_ALIVE, KEEP_ALIVE_S, EventStream, event
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import EntryKind, Job, OutputEntry
from lengthwise_store.output_reader import stream_output

router = APIRouter(tags=["jobs"], dependencies=SECURED, responses=openapi.ALWAYS)

#: An id of a stream entry, as Redis makes it: ms and a sequence number, 64 bits each.
_ENTRY_ID = r"\d{1,19}-\d{1,19}"

_RESUME: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": where,
            "required": False,
            "description": "Only events after the one with this id",
            "schema": {"type": "string", "pattern": f"^{_ENTRY_ID}$"},
        }
        for name, where in (("Last-Event-ID", "header"), ("last_event_id", "query"))
    ]
}


@router.post(
    "/v1/jobs",
    status_code=202,
    response_model=JobView,
    responses=openapi.known(JobView, "The idempotency key names this job already")
    | openapi.errors(400, 404, 413, 415, 422, 429),
    openapi_extra=openapi.json_body(JobRequest) | openapi.IDEMPOTENCY_KEY,
)
async def submit_job(request: Request) -> Response:
    """Submit a job, to be answered later. Returns 202, or 200 if its idempotency key is known."""
    service, tenant = of(request), tenant_of(request)
    with service.metrics.counting_refusals():
        raw = await read_body(request, service.settings.max_body_bytes)
        submitted = parse_model(raw, JobRequest)
        parsed = _parse_body(submitted)
        key = key_from(request.headers.get("idempotency-key"))
    options = JobOptions(
        job_class=submitted.job_class if "job_class" in submitted.model_fields_set else None,
        max_attempts=submitted.max_attempts,
        delay_ms=submitted.delay_ms,
        ttl_ms=submitted.ttl_ms,
        idempotency_key=key,
        request_id=request_id_of(request),
    )
    body = submitted.body
    if body.get("stream") is None:
        body = body | {"stream": True}
    payload = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    job = await service.admission.submit(tenant, submitted.endpoint, payload, parsed, options)
    service.metrics.requests.labels(job.queue, "accepted").inc()
    if job.accepted.duplicate:
        try:
            found = await find_job(service, tenant, job.accepted.id)
            answer = _json(await _view(service, found))
        except StoreUnavailable as exc:
            exc.job_id = job.accepted.id  # it exists, whatever cannot be read now
            raise
    else:
        answer = _json(views.new_job_view(job.queue, job.new, job.accepted), status=202)
    answer.headers["Location"] = f"/v1/jobs/{job.accepted.id}"
    return answer


@router.get("/v1/jobs", responses=openapi.errors(400, 403, 404))
async def list_jobs(
    request: Request,
    queue: Annotated[str | None, Query(description="Only jobs of this queue")] = None,
    state: Annotated[JobState | None, Query(description="Only jobs in this state")] = None,
    after: After = None,
    limit: PageSize = 50,
    tenant: TenantName = None,
) -> JobList:
    """List your jobs: running, waiting by due time, scheduled, then ended, the newest first."""
    service = of(request)
    owner = named_by(request, tenant)
    if queue is not None:
        await service.queue_cache.get(tenant_of(request), queue)
    names = [queue] if queue else [q.name for q in await service.store.queues()]
    page = await pagination.list_jobs(
        service.store, names, owner, state=state, after=after, limit=limit
    )
    return views.job_list(page.jobs, page.after)


@router.get("/v1/jobs/{job_id}", response_model=JobView, responses=openapi.errors(404))
async def get_job(request: Request, job_id: str) -> Response:
    """Return a job with its answer so far."""
    service = of(request)
    return _json(await _view(service, await find_job(service, tenant_of(request), job_id)))


@router.delete("/v1/jobs/{job_id}", response_model=JobView, responses=openapi.errors(404))
async def delete_job(request: Request, job_id: str) -> Response:
    """Cancel a job. Its record and its output can be read for another hour."""
    return await cancel_job(request, job_id)


@router.post("/v1/jobs/{job_id}/cancel", response_model=JobView, responses=openapi.errors(404))
async def cancel_job(request: Request, job_id: str) -> Response:
    """Cancel a job. A running job ends within a heartbeat; an ended job does not change."""
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
    """Queue a dead letter again, with all its attempts. For admins; no limit applies.

    A job that waits, runs or has succeeded since does not change.
    """
    service, tenant = of(request), admin_of(request)
    job = await find_job(service, tenant, job_id)
    state = await service.store.redrive(job.queue, job.id)
    if state is JobState.FAILED:
        raise NotRedrivable(
            "The job cannot be served again: its request is gone or unreadable. Submit a new one."
        )
    if state in (JobState.CANCELLED, JobState.EXPIRED):
        raise NotRedrivable(
            f"The job is {state}, and only a failed job can be redriven. Submit a new one."
        )
    return _json(await _view(service, await find_job(service, tenant, job_id)))


@router.get("/v1/jobs/{job_id}/explain", response_model=Explanation, responses=openapi.errors(404))
async def explain_job(request: Request, job_id: str) -> Response:
    """Explain the job's place in the queue."""
    service = of(request)
    job = await find_job(service, tenant_of(request), job_id)
    snapshot = await service.queue_cache.read(job.queue)
    waiting = job.state is JobState.QUEUED
    position = await service.store.position(job.queue, job.id) if waiting else None
    # Of the caller's own job: an admin is not shown the lengths of other tenants' jobs either.
    own = job.tenant == tenant_of(request).name
    similar = await similar_jobs(service.learning, job) if own else []
    return _json(explanation(job, snapshot, position, similar))


@router.get(
    "/v1/jobs/{job_id}/stream",
    response_model=None,
    responses=openapi.events("`chunk`, `attempt` and `end` events")
    | {204: {"description": "There is no event after that one, and there will be none"}}
    | openapi.errors(400, 404),
    openapi_extra=_RESUME,
)
async def stream_job(request: Request, job_id: str) -> Response:
    """Stream the job's output as server-sent events. Any replica can resume the stream.

    `chunk`: one event of the engine. `attempt`: a new attempt starts, so discard the chunks before
    it. `end`: the last event. To resume after an event, send its id as `Last-Event-ID` (or
    `?last_event_id=`). 204: no event follows that one, and none will.
    """
    service = of(request)
    after = _resume_after(request)
    job = await find_job(service, tenant_of(request), job_id)
    if after != "0-0" and job.state in TERMINAL:
        rest = await service.store.read_output(job.queue, job.id, after=after, limit=1)
        if not rest:
            return Response(status_code=204)
    return JobStream(service, job, after)


class JobStream(EventStream):
    """Sends a job's output. A reader that disconnects can resume, so its job is not cancelled."""

    def __init__(self, service: Service, job: Job, after: str) -> None:
        super().__init__(unless=service.draining)
        self._service = service
        self._job = job
        self._after = after

    async def _send_events(self, send: Send) -> None:
        await self._send(send, b"retry: 1000\n: job %s\n" % self._job.id.encode())
        entries = stream_output(
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
                    await self._send(send, b"".join(map(_event, batch)) or KEEP_ALIVE)
        except StoreUnavailable:
            return  # the reader resumes, and then gets a 503


def _event(entry: OutputEntry) -> bytes:
    data = entry.data
    if entry.kind is EntryKind.ATTEMPT:
        data = json.dumps({"attempt": entry.attempt}).encode()
    return event(data, entry_id=entry.id, name=entry.kind)


def _parse_body(submitted: JobRequest) -> ParsedRequest:
    try:
        return endpoint_at(submitted.endpoint).parse(submitted.body)
    except BadRequest as exc:
        exc.param = None if exc.param is None else f"body.{exc.param}"
        raise


def _resume_after(request: Request) -> str:
    given = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
    if not given:
        return "0-0"
    if not re.fullmatch(_ENTRY_ID, given):
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
