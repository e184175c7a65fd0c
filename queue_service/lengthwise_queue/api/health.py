"""Liveness, readiness and metrics, for the platform that runs the service."""

from __future__ import annotations

import importlib.metadata

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from lengthwise_queue.service import Service, of
from lengthwise_queue.web import openapi
from lengthwise_store.errors import StoreUnavailable

router = APIRouter(tags=["health"])

_VERSION = importlib.metadata.version("lengthwise")


@router.get("/healthz")
async def healthz(request: Request) -> dict[str, str]:
    """Report that the process is alive. Redis is not checked: a restart would not bring it back.

    `access` is `open` if no API key is needed; then every client is an admin.
    """
    return {"status": "ok", "access": "open" if of(request).tenants.is_open else "keys"}


@router.get("/readyz", responses=openapi.errors(503))
async def readyz(request: Request) -> dict[str, str]:
    """Report whether requests are accepted: Redis answers, and the process does not shut down."""
    await _check_ready(of(request))
    return {"status": "ok"}


@router.get("/health", response_class=Response, responses=openapi.errors(503))
@router.get("/ping", response_class=Response, responses=openapi.errors(503))
@router.post("/ping", response_class=Response, responses=openapi.errors(503))
async def health(request: Request) -> Response:
    """Report whether requests are accepted, as vLLM does for clients that ask it: an empty 200.

    For probes of the platform there are `/healthz` and `/readyz`.
    """
    await _check_ready(of(request))
    return Response()


@router.get("/version")
async def version() -> dict[str, str]:
    """Return the version of this service, in the form of vLLM's."""
    return {"version": _VERSION}


async def _check_ready(service: Service) -> None:
    if service.draining.is_set():
        raise StoreUnavailable(
            "This process is shutting down; ask another replica.", code="draining"
        )
    await service.store.check()
    service.metrics.show_memory(service.store.memory)


@router.get(
    "/metrics",
    response_model=None,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus's text format, as they were within the last second."""
    return Response(await of(request).scrapes.text(), media_type=CONTENT_TYPE_LATEST)
