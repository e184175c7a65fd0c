"""OpenAI's batches: create, retrieve, list and cancel them. `batches/` executes them."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, field_validator

from lengthwise_contract.jobs import EndpointPath
from lengthwise_queue.auth import SECURED, tenant_of
from lengthwise_queue.background.withdrawals import AWAY_PAUSE_S, SECOND_LOOK_S
from lengthwise_queue.errors import BadRequest, ObjectNotFound
from lengthwise_queue.service import Service, of
from lengthwise_queue.web import openapi
from lengthwise_queue.web.listing import openai_page
from lengthwise_queue.web.request_body import parse_model, read_body
from lengthwise_store.batches.batch import ENDED, Batch, BatchStatus
from lengthwise_store.batches.store import MAX_BATCHES
from lengthwise_store.errors import StorageFull, StoreUnavailable

router = APIRouter(tags=["batches"], dependencies=SECURED, responses=openapi.ALWAYS)


class ExpiresAfter(BaseModel):
    """Lifetime of the result files."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=30 * 86_400)


class BatchRequest(BaseModel):
    """A body of `POST /v1/batches`."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str = Field(min_length=1, max_length=100)
    endpoint: EndpointPath
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    output_expires_after: ExpiresAfter | None = None

    @field_validator("metadata")
    @classmethod
    def _short_metadata(cls, metadata: dict[str, str] | None) -> dict[str, str] | None:
        if any(len(name) > 64 or len(value) > 512 for name, value in (metadata or {}).items()):
            raise ValueError("keys have at most 64 characters, and values at most 512")
        return metadata


@router.post(
    "/v1/batches",
    openapi_extra=openapi.json_body(BatchRequest),
    responses=openapi.errors(400, 413, 415),
)
async def create_batch(request: Request) -> dict[str, Any]:
    """Create a batch from an uploaded file. All lines are checked before the first one runs."""
    service, tenant = of(request), tenant_of(request).name
    raw = await read_body(request, service.settings.max_body_bytes)
    body = parse_model(raw, BatchRequest)
    file = await service.files.get(tenant, body.input_file_id)
    if file is None:
        raise BadRequest(
            "`input_file_id` names no file of yours. Upload one with POST /v1/files.",
            param="input_file_id",
            code="invalid_value",
        )
    keep = body.output_expires_after
    batch_id = f"batch_{uuid.uuid4().hex}"
    try:
        made = await service.batches.create(
            batch_id,
            tenant=tenant,
            endpoint=body.endpoint,
            input_file_id=file.id,
            metadata=body.metadata,
            window_ms=service.settings.batch_completion_s * 1000,
            output_ttl_ms=service.files.limits.ttl_ms if keep is None else keep.seconds * 1000,
            max_body_bytes=service.settings.max_body_bytes,
        )
        if made:
            service.batch_made.set()
            return batch_view(await _batch(request, batch_id))
    except StoreUnavailable as exc:
        # The batch may be stored all the same, while its client gets an error.
        service.tasks.start(_withdraw(service, tenant, batch_id))
        message = (
            f"{exc.problem} If batch {batch_id} was stored, it is cancelled when Redis answers; "
            "some of its lines may run before that. Create it again."
        )
        raise StoreUnavailable(message, code=exc.code, retry_after_s=exc.retry_after_s) from exc
    raise StorageFull(
        f"You have {MAX_BATCHES} batches, which is the limit. Old batches expire; try again later.",
        code="too_many_batches",
    )


@router.get("/v1/batches", responses=openapi.errors(400))
async def list_batches(
    request: Request,
    after: str | None = Query(default=None, max_length=100),
    limit: int = Query(default=20, ge=1, le=100),
) -> dict[str, Any]:
    """List your batches, the newest first."""
    batches, more = await of(request).batches.page(
        tenant_of(request).name, after=after, limit=limit
    )
    return openai_page([batch_view(batch) for batch in batches], more)


@router.get("/v1/batches/{batch_id}", responses=openapi.errors(404))
async def get_batch(request: Request, batch_id: str) -> dict[str, Any]:
    """Return one batch, with the number of its finished requests."""
    return batch_view(await _batch(request, batch_id))


@router.post("/v1/batches/{batch_id}/cancel", responses=openapi.errors(404))
async def cancel_batch(request: Request, batch_id: str) -> dict[str, Any]:
    """Cancel a batch. Running requests are stopped; the results so far are kept."""
    service = of(request)
    await _batch(request, batch_id)
    await service.batches.cancel(batch_id)
    service.batch_made.set()
    return batch_view(await _batch(request, batch_id))


async def _withdraw(service: Service, tenant: str, batch_id: str) -> None:
    """Cancel a batch whose client got an error, however long Redis is away."""
    looked = False
    while True:
        try:
            if await service.batches.get(tenant, batch_id) is not None:
                await service.batches.cancel(batch_id)
                service.batch_made.set()
                return
        except StoreUnavailable:
            await asyncio.sleep(AWAY_PAUSE_S)
            continue
        if looked:
            return  # it was never stored
        # The request may still be unread in a socket of Redis.
        looked = True
        await asyncio.sleep(SECOND_LOOK_S)


async def _batch(request: Request, batch_id: str) -> Batch:
    batch = await of(request).batches.get(tenant_of(request).name, batch_id)
    if batch is None:
        raise ObjectNotFound(
            "There is no such batch. Its id may be wrong, or it has expired; GET /v1/batches lists "
            "your batches.",
            param="batch_id",
        )
    return batch


def batch_view(batch: Batch) -> dict[str, Any]:
    """Make OpenAI's batch object."""
    at = {
        f"{status}_at": batch.at[status] // 1000 if status in batch.at else None
        for status in BatchStatus
        if status is not BatchStatus.VALIDATING
    }
    usage = {
        "input_tokens": batch.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": batch.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": batch.input_tokens + batch.output_tokens,
    }
    ended = batch.status in ENDED
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_ms // 1000,
        "expires_at": batch.expires_ms // 1000,
        **at,
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "usage": usage if ended else None,
        "metadata": batch.metadata,
    }
