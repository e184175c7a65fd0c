"""Queues: what there is, how each behaves, and the line as it stands."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError

from lengthwise_contract.api import LineView, QueueSettings, QueueView
from lengthwise_queue import views
from lengthwise_queue.errors import BadRequest
from lengthwise_queue.ownership import SECURED
from lengthwise_queue.request_body import parse_object, read_body, wrong_field
from lengthwise_queue.service import of

router = APIRouter(tags=["queues"], dependencies=SECURED)

#: A queue is named as its model. Braces would break the Redis keys' hash tag.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9._:@+-]+)*")

#: Longest name, characters; that of `PredictRequest.model`.
MAX_NAME = 256

_SETTINGS_BODY: dict[str, Any] = {
    "requestBody": {
        "content": {"application/json": {"schema": QueueSettings.model_json_schema()}},
    }
}


@router.get("/v1/queues")
async def list_queues(request: Request) -> dict[str, Any]:
    """Every queue."""
    pages = await of(request).book.read_all()
    return {"object": "list", "data": [views.queue_view(page) for page in pages]}


# Before `/v1/queues/{name:path}`, which would take the word `line` for a part of the name.
@router.get("/v1/queues/{name:path}/line")
async def get_line(
    request: Request, name: str, limit: int = Query(default=50, ge=1, le=1000)
) -> LineView:
    """The next jobs, those running, and the last finished; at most `limit` of each."""
    service = of(request)
    await service.book.page(name)
    return views.line_view(await service.store.line(name, limit))


@router.get("/v1/queues/{name:path}")
async def get_queue(request: Request, name: str) -> QueueView:
    """One queue."""
    return views.queue_view(await of(request).book.read(name))


@router.put("/v1/queues/{name:path}", openapi_extra=_SETTINGS_BODY)
async def put_queue(request: Request, name: str) -> QueueView:
    """Create a queue, or give it new settings: what is left out gets its default."""
    service = of(request)
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME or name.endswith("/line"):
        raise BadRequest(
            f"A queue's name must be that of a model: 1 to {MAX_NAME} letters, digits and "
            "`._:@+-`, in parts divided by `/`, and the last part is not `line`.",
            param="name",
        )
    raw = await read_body(request, service.settings.max_body_bytes)
    try:
        if raw:
            parse_object(raw)
        settings = QueueSettings.model_validate_json(raw or b"{}")
    except ValidationError as exc:
        raise wrong_field(exc) from None
    if settings.tokenizer is not None:
        try:
            await service.prompt_length.load(settings.tokenizer)
        except ValueError as exc:
            raise BadRequest(
                f"`tokenizer` must be the path of a tokenizer.json: {exc}.", param="tokenizer"
            ) from exc
    await service.store.put_queue(name, settings)
    return views.queue_view(await service.book.read(name))
