"""OpenAI's files: upload, list, download and delete them. Batches read and write files."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic_core import to_json
from starlette.responses import Response, StreamingResponse

from lengthwise_queue.auth import SECURED, tenant_of
from lengthwise_queue.errors import BadRequest, BodyTooLarge, ObjectNotFound
from lengthwise_queue.openai.multipart import Field, FileBegin, FormReader
from lengthwise_queue.service import Service, of
from lengthwise_queue.web import openapi
from lengthwise_queue.web.listing import openai_page
from lengthwise_store.files.file import FileGone, StoredFile
from lengthwise_store.files.store import LONGEST_TTL_MS, FileWriter

router = APIRouter(tags=["files"], dependencies=SECURED, responses=openapi.ALWAYS)

#: The only purpose of an uploaded file. Nothing here reads files of OpenAI's other purposes.
PURPOSE = "batch"

#: Files of a listing that are shown in one step of the event loop.
_VIEWS = 500

#: Longest name of a file, characters. A longer name is cut.
MAX_FILENAME = 255

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": [PURPOSE]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": 3600,
                            "maximum": LONGEST_TTL_MS // 1000,
                        },
                    },
                }
            }
        },
    }
}

_CONTENT: openapi.Responses = {
    200: {
        "description": "The file's bytes",
        "content": {"application/octet-stream": {"schema": {"type": "string"}}},
    }
}


@router.post("/v1/files", openapi_extra=_FORM, responses=openapi.errors(400, 413, 415))
async def upload_file(request: Request) -> dict[str, Any]:
    """Upload a file. It is stored as it arrives, and never held in memory as a whole."""
    service, tenant = of(request), tenant_of(request).name
    limit = service.settings.max_file_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit + 2 * 65_536:
        raise _too_large(limit)
    form = FormReader(request.headers.get("content-type", ""))
    upload = _Upload(service, tenant)
    try:
        async for piece in request.stream():
            for event in form.feed(piece):
                await upload.take(event)
        form.close()
        return file_view(await upload.commit())
    except BaseException:
        if upload.writer is not None:
            # In the background, because the client may be gone, and this task with it.
            service.tasks.start(_abandon(upload.writer))
        raise


class _Upload:
    """One upload: the form's fields and the file so far."""

    def __init__(self, service: Service, tenant: str) -> None:
        self.writer: FileWriter | None = None
        self._service = service
        self._tenant = tenant
        self._fields: dict[str, str] = {}

    async def take(self, event: Field | FileBegin | bytes) -> None:
        """Process the next event of the form."""
        match event:
            case Field():
                self._fields[event.name] = event.value
            case FileBegin():
                if event.name != "file" or self.writer is not None:
                    raise BadRequest(
                        "The form must have one file, in the part `file`.", param=event.name
                    )
                self.writer = self._service.files.writer(
                    tenant=self._tenant,
                    filename=event.filename[:MAX_FILENAME] or "upload",
                    purpose=PURPOSE,
                    ttl_ms=self._service.files.limits.ttl_ms,
                )
            case bytes() if self.writer is not None:
                limit = self._service.settings.max_file_bytes
                if self.writer.size + len(event) > limit:
                    raise _too_large(limit)
                await self.writer.write(event)

    async def commit(self) -> StoredFile:
        """Complete the file at the end of the form."""
        purpose = self._fields.get("purpose")
        if purpose is None:
            raise BadRequest(
                "`purpose` is missing: send `batch`.",
                param="purpose",
                code="missing_required_parameter",
            )
        if purpose != PURPOSE:
            raise BadRequest(
                "`purpose` must be `batch`: files are only stored for batches.",
                param="purpose",
                code="invalid_value",
            )
        if self.writer is None:
            raise BadRequest(
                "`file` is missing: send the content as a part with a filename.",
                param="file",
                code="missing_required_parameter",
            )
        ttl_ms = _ttl_ms(self._fields)
        if ttl_ms is not None:
            self.writer.ttl_ms = ttl_ms
        return await self.writer.commit()


async def _abandon(writer: FileWriter) -> None:
    with contextlib.suppress(Exception):  # if this fails, the file expires
        await writer.abandon()


@router.get("/v1/files", response_model=dict[str, Any], responses=openapi.errors(400))
async def list_files(
    request: Request,
    purpose: str | None = None,
    after: str | None = Query(default=None, max_length=100),
    limit: int = Query(default=10_000, ge=1, le=10_000),
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """List your files."""
    files, more = await of(request).files.page(
        tenant_of(request).name, purpose=purpose, after=after, limit=limit, order=order
    )
    views: list[dict[str, Any]] = []
    for at in range(0, len(files), _VIEWS):
        views += [file_view(file) for file in files[at : at + _VIEWS]]
        await asyncio.sleep(0)
    # FastAPI's own way takes a quarter of a second for 10,000 files, and other requests wait.
    return Response(to_json(openai_page(views, more)), media_type="application/json")


@router.get("/v1/files/{file_id}", responses=openapi.errors(404))
async def get_file(request: Request, file_id: str) -> dict[str, Any]:
    """Return one file, without its content."""
    return file_view(await _file(request, file_id))


@router.get(
    "/v1/files/{file_id}/content",
    response_class=Response,
    responses=_CONTENT | openapi.errors(404),
)
async def get_content(request: Request, file_id: str) -> Response:
    """Download a file. Its content is sent as it is read."""
    file = await _file(request, file_id)
    blocks = of(request).files.read(file)
    # The first block is read before the headers are sent, so that a file without content is a 404.
    try:
        first = await anext(blocks, b"")
    except FileGone:
        raise _not_found() from None
    return StreamingResponse(
        _chain(first, blocks),
        media_type="application/octet-stream",
        headers={
            "Content-Length": str(file.bytes),
            "Content-Disposition": f'attachment; filename="{_quotable(file.filename)}"',
        },
    )


@router.delete("/v1/files/{file_id}", responses=openapi.errors(404))
async def delete_file(request: Request, file_id: str) -> dict[str, Any]:
    """Delete a file. A batch that still reads the file fails."""
    file = await _file(request, file_id)
    await of(request).files.drop(file.id, file.content)
    return {"id": file_id, "object": "file", "deleted": True}


def file_view(file: StoredFile) -> dict[str, Any]:
    """Make OpenAI's file object."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_ms // 1000,
        "expires_at": file.expires_ms // 1000,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


async def _file(request: Request, file_id: str) -> StoredFile:
    file = await of(request).files.get(tenant_of(request).name, file_id)
    if file is None:
        raise _not_found()
    return file


def _not_found() -> ObjectNotFound:
    return ObjectNotFound(
        "There is no such file. Its id may be wrong, or it was deleted or has expired; "
        "GET /v1/files lists your files.",
        param="file_id",
    )


async def _chain(first: bytes, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for block in blocks:
        yield block


def _ttl_ms(fields: dict[str, str]) -> int | None:
    seconds = fields.get("expires_after[seconds]")
    if seconds is None:
        return None
    if fields.get("expires_after[anchor]", "created_at") != "created_at":
        raise BadRequest(
            "`expires_after[anchor]` must be `created_at`.", param="expires_after[anchor]"
        )
    most = LONGEST_TTL_MS // 1000
    if not re.fullmatch(r"\d{1,9}", seconds) or not 3600 <= int(seconds) <= most:
        raise BadRequest(
            f"`expires_after[seconds]` must be an integer from 3600 to {most}.",
            param="expires_after[seconds]",
        )
    return int(seconds) * 1000


def _quotable(name: str) -> str:
    """Make a name safe between the quotes of a header."""
    return re.sub(r'[^\x20-\x7e]|["\\]', "_", name)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The file is over the limit of {limit} bytes. Split it into several batches, or raise "
        "LENGTHWISE_QUEUE_MAX_FILE_BYTES.",
        param="file",
    )
