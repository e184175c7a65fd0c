"""OpenAI's models: the queues that a tenant may use."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from lengthwise_queue.auth import SECURED, tenant_of
from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_queue.service import of
from lengthwise_queue.web import openapi

router = APIRouter(tags=["openai"], dependencies=SECURED, responses=openapi.ALWAYS)


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """List the models: one for each queue that your tenant may use."""
    tenant = tenant_of(request)
    snapshots = await of(request).queue_cache.read_all()
    data = [_model(snapshot) for snapshot in snapshots if tenant.may_use(snapshot.queue.name)]
    return {"object": "list", "data": data}


@router.get("/v1/models/{model:path}", responses=openapi.errors(404))
async def model(request: Request, model: str) -> dict[str, Any]:
    """Return one model."""
    return _model(await of(request).queue_cache.get(tenant_of(request), model))


def _model(snapshot: QueueSnapshot) -> dict[str, Any]:
    return {
        "id": snapshot.queue.name,
        "object": "model",
        # s; OpenAI requires a number. 0: the queue was made by a release that did not record it.
        "created": int((snapshot.stats.created_ms or 0) / 1000),
        "owned_by": "lengthwise",
        "max_model_len": snapshot.settings.max_model_len,
        "lengthwise": {"workers": len(snapshot.stats.live_workers)},
    }
