"""Listings: their query parameters, and the body of one page in OpenAI's form."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query

After = Annotated[str | None, Query(description="`next_after` of the page before")]
PageSize = Annotated[int, Query(ge=1, le=1000, description="Most entries of the page")]
TenantName = Annotated[
    str | None, Query(description="Name of another tenant, whose jobs an admin wants to see")
]


def openai_page(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """Make one page of a listing, in the form of OpenAI's lists."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }
