"""Queues: list, view, configure, pause, drain, resume and remove them; their dead letters."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from pydantic import ValidationError

from lengthwise_contract.jobs import JobList, RedriveReport
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.queue_views import (
    QueueList,
    QueueRemoved,
    QueueView,
    SnapshotView,
    TenantQueueView,
)
from lengthwise_contract.states import JobState
from lengthwise_queue.api import views
from lengthwise_queue.api.pagination import wrong_cursor
from lengthwise_queue.auth import SECURED, admin_of, named_by, tenant_of
from lengthwise_queue.errors import BadRequest, QueueExists, QueueInUse, WrongMethod
from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_queue.service import Service, of
from lengthwise_queue.tenants.tenant import Tenant
from lengthwise_queue.web import openapi
from lengthwise_queue.web.listing import After, PageSize, TenantName
from lengthwise_queue.web.request_body import parse_model, parse_object, read_body, wrong_field
from lengthwise_store.queues import JobPage, Mode

router = APIRouter(tags=["queues"], dependencies=SECURED, responses=openapi.ALWAYS)

#: A queue has the name of its model. Braces would break the hash tag of its Redis keys.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9._:@+-]+)*")

#: Longest name, characters; the same limit as that of `PredictRequest.model`.
MAX_NAME = 256

#: A name must not end with one of these, because they are other URLs -> their method.
_SUBRESOURCES = {
    "/snapshot": "GET",
    "/dead": "GET",
    "/dead/redrive": "POST",
    "/pause": "POST",
    "/drain": "POST",
    "/resume": "POST",
}


@router.get("/v1/queues")
async def list_queues(request: Request) -> QueueList:
    """List the queues that your tenant may use."""
    service, tenant = of(request), tenant_of(request)
    queues = [q for q in await service.queue_cache.read_all() if tenant.may_use(q.queue.name)]
    if tenant.admin:
        return QueueList(data=[views.queue_view(snapshot) for snapshot in queues])
    return QueueList(data=[_tenants_view(service, tenant, snapshot) for snapshot in queues])


# Before `/v1/queues/{name:path}`, which would take the last word as a part of the name.
@router.get("/v1/queues/{name:path}/snapshot", responses=openapi.errors(400, 404))
async def get_snapshot(request: Request, name: str, limit: PageSize = 50) -> SnapshotView:
    """Return the next jobs, those that run, and the last that finished; at most `limit` of each.

    An admin sees the jobs of all tenants, a tenant its own.
    """
    service, tenant = of(request), tenant_of(request)
    await service.queue_cache.get(tenant, name)
    only = None if tenant.admin else tenant.name
    return views.snapshot_view(await service.store.snapshot(name, limit, tenant=only))


@router.get("/v1/queues/{name:path}/dead", responses=openapi.errors(400, 403, 404))
async def list_dead(
    request: Request,
    name: str,
    after: After = None,
    limit: PageSize = 50,
    tenant: TenantName = None,
) -> JobList:
    """List your dead letters, the newest first. An admin sees those of all tenants, by tenant."""
    page = await _dead(request, name, tenant, after, limit)
    return views.job_list(page.jobs, page.after)


@router.post("/v1/queues/{name:path}/dead/redrive", responses=openapi.errors(400, 403, 404))
async def redrive_dead(
    request: Request,
    name: str,
    after: After = None,
    limit: PageSize = 100,
    tenant: TenantName = None,
) -> RedriveReport:
    """Queue up to `limit` dead letters again. For admins; no limit of the queue applies.

    A dead letter that cannot be served again stays. Use `next_after` to continue after it.
    """
    admin_of(request)
    store = of(request).store
    page = await _dead(request, name, tenant, after, limit)
    states = [await store.redrive(name, job.id) for job in page.jobs]
    return RedriveReport(
        redriven=sum(state is JobState.QUEUED for state in states),
        unreadable=sum(state is JobState.FAILED for state in states),
        has_more=page.after is not None,
        next_after=page.after,
    )


@router.post("/v1/queues/{name:path}/pause", responses=openapi.errors(403, 404))
async def pause_queue(request: Request, name: str) -> QueueView:
    """Pause the queue: it accepts jobs, but starts none. Running jobs continue."""
    return await _set_mode(request, name, Mode.PAUSED)


@router.post("/v1/queues/{name:path}/drain", responses=openapi.errors(403, 404))
async def drain_queue(request: Request, name: str) -> QueueView:
    """Drain the queue: it serves its jobs, and refuses new ones with a 503."""
    return await _set_mode(request, name, Mode.DRAINING)


@router.post("/v1/queues/{name:path}/resume", responses=openapi.errors(403, 404))
async def resume_queue(request: Request, name: str) -> QueueView:
    """Resume the queue after a pause or a drain."""
    return await _set_mode(request, name, Mode.OPEN)


@router.get("/v1/queues/{name:path}", responses=openapi.errors(404))
async def get_queue(request: Request, name: str) -> QueueView | TenantQueueView:
    """Return one queue: for an admin the whole queue, for a tenant its own part."""
    service, tenant = of(request), tenant_of(request)
    if tenant.admin:
        await service.queue_cache.get(tenant, name)
        return views.queue_view(await service.queue_cache.read(name))
    return _tenants_view(service, tenant, await service.queue_cache.get(tenant, name))


@router.put(
    "/v1/queues/{name:path}",
    responses=openapi.errors(400, 403, 404, 412, 413, 415),
    openapi_extra=openapi.json_body(QueueSettings, required=False),
)
async def put_queue(
    request: Request, name: str, if_none_match: Annotated[str | None, Header()] = None
) -> QueueView:
    """Create a queue, or replace its settings. A setting that is left out gets its default.

    What workers publish stays. With `If-None-Match: *` an existing queue is not changed: 412.
    """
    service, _ = of(request), admin_of(request)
    _check_name("PUT", name)
    raw = await read_body(request, service.settings.max_body_bytes)
    settings = parse_model(raw or b"{}", QueueSettings)
    await _check_tokenizer(service, settings.tokenizer)
    only_new = if_none_match is not None and if_none_match.strip() == "*"
    if not await service.store.put_queue(name, settings, only_new=only_new):
        raise QueueExists(f"The queue {name!r} exists. PATCH /v1/queues/{name} changes it.")
    return views.queue_view(await service.queue_cache.read(name))


@router.patch(
    "/v1/queues/{name:path}",
    responses=openapi.errors(400, 403, 404, 413, 415),
    openapi_extra=openapi.json_body(QueueSettings),
)
async def patch_queue(request: Request, name: str) -> QueueView:
    """Change some settings of a queue (a JSON merge patch); null takes one back to its default."""
    service, tenant = of(request), admin_of(request)
    _check_name("PATCH", name)
    await service.queue_cache.get(tenant, name)
    changes = parse_object(await read_body(request, service.settings.max_body_bytes))
    unknown = next((field for field in changes if field not in QueueSettings.model_fields), None)
    if unknown is not None:
        raise BadRequest(
            f"`{unknown}` is not a setting of a queue. Leave it out, or correct its spelling.",
            param=unknown,
            code="unknown_field",
        )
    if isinstance(changes.get("tokenizer"), str):
        await _check_tokenizer(service, changes["tokenizer"])
    try:
        await service.store.patch_queue(name, changes)
    except ValidationError as exc:
        raise wrong_field(exc) from None
    return views.queue_view(await service.queue_cache.read(name))


@router.delete("/v1/queues/{name:path}", responses=openapi.errors(400, 403, 404, 409))
async def remove_queue(
    request: Request,
    name: str,
    force: Annotated[
        bool, Query(description="Cancel its jobs, delete its dead letters, ignore its workers")
    ] = False,
) -> QueueRemoved:
    """Remove a queue. It must have no jobs, no dead letters and no workers, or `force=true`."""
    service, tenant = of(request), admin_of(request)
    _check_name("DELETE", name)
    await service.queue_cache.get(tenant, name)
    busy = await service.store.remove_queue(name, force=force)
    if busy is not None:
        raise QueueInUse(
            f"The queue {name!r} is in use: {busy.waiting + busy.scheduled} jobs wait, "
            f"{busy.running} run, {busy.dead} are dead letters, and {busy.workers} workers serve "
            "it. Drain it and stop its workers, or add `?force=true`, which cancels its jobs."
        )
    service.queue_cache.forget(name)
    return QueueRemoved(name=name)


def _check_name(method: str, name: str) -> None:
    suffix = next((suffix for suffix in _SUBRESOURCES if name.endswith(suffix)), None)
    if suffix is not None:
        raise WrongMethod(f"{method} /v1/queues/{name}", allowed=_SUBRESOURCES[suffix])
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise BadRequest(
            f"A queue must have the name of its model: 1 to {MAX_NAME} letters, digits and "
            "`._:@+-`, in parts divided by `/`.",
            param="name",
        )


async def _check_tokenizer(service: Service, path: str | None) -> None:
    if path is None:
        return
    try:
        await service.prompt_length.load(path)
    except ValueError as exc:
        raise BadRequest(
            f"`tokenizer` must be the path of a tokenizer.json: {exc}.", param="tokenizer"
        ) from exc


async def _set_mode(request: Request, name: str, mode: Mode) -> QueueView:
    service, tenant = of(request), admin_of(request)
    await service.queue_cache.get(tenant, name)
    await service.store.set_mode(name, mode)
    return views.queue_view(await service.queue_cache.read(name))


async def _dead(
    request: Request, name: str, named: str | None, after: str | None, limit: int
) -> JobPage:
    service, tenant = of(request), tenant_of(request)
    owners = [named_by(request, named)]
    await service.queue_cache.get(tenant, name)
    if tenant.admin and named is None:
        # Read anew, so that a tenant whose first job has just died is included.
        fresh = await service.queue_cache.read(name)
        owners = [backlog.tenant for backlog in fresh.stats.tenants]
    try:
        return await service.store.dead(name, owners, after=after, limit=limit)
    except ValueError:
        raise wrong_cursor() from None


def _tenants_view(service: Service, tenant: Tenant, snapshot: QueueSnapshot) -> TenantQueueView:
    return views.tenant_queue_view(snapshot, tenant, service.tenants.weight)
