"""Whose request it is, until API keys say so."""

from __future__ import annotations

from starlette.requests import Request


def tenant_of(request: Request) -> str:
    """The tenant that a request belongs to."""
    return "default"
