"""Whose request it is, as the name that files are kept under."""

from __future__ import annotations

from starlette.requests import Request

from lengthwise_queue import ownership


def tenant_of(request: Request) -> str:
    """The tenant that a request belongs to."""
    return ownership.tenant_of(request).name
