"""For the machinery around the service: is it alive, can it serve, and its figures."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from lengthwise_queue.service import of
from lengthwise_queue.web import openapi
from lengthwise_store.errors import StoreUnavailable

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz(request: Request) -> dict[str, str]:
    """The process is alive. Says nothing about Redis: a restart would not bring that back.

    `access` is `open` where no API key is needed, and everybody is an admin.
    """
    return {"status": "ok", "access": "open" if of(request).tenants.is_open else "keys"}


@router.get("/readyz", responses=openapi.errors(503))
async def readyz(request: Request) -> dict[str, str]:
    """Requests can be accepted: Redis answers, and the process is not about to stop."""
    service = of(request)
    if service.draining.is_set():
        raise StoreUnavailable("This process is stopping; ask another.", code="draining")
    await service.store.check()
    service.metrics.show_memory(service.store.memory)
    return {"status": "ok"}


@router.get(
    "/metrics",
    response_model=None,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Prometheus's text format; the queues are read as they are now."""
    service = of(request)
    try:
        snapshots = await service.queue_cache.read_all()
        names = [snapshot.queue.name for snapshot in snapshots if snapshot.stats.depth]
        waiting = {name: await service.store.waiting_lengths(name) for name in names}
    except StoreUnavailable:
        snapshots, waiting = None, {}
    return Response(service.metrics.expose(snapshots, waiting), media_type=CONTENT_TYPE_LATEST)
