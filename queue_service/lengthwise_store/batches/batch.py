"""The values of a batch: its record, its status, the lines of its input and their results."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, cast

from lengthwise_contract.jobs import EndpointPath

log = logging.getLogger(__name__)


class BatchStatus(StrEnum):
    """The status of a batch, as OpenAI names it."""

    VALIDATING = "validating"  #: Its input is being validated; nothing runs yet.
    FAILED = "failed"  #: Its input is invalid, or is gone.
    IN_PROGRESS = "in_progress"  #: Its lines are jobs in the queue.
    FINALIZING = "finalizing"  #: Every line has its result; the files are being closed.
    COMPLETED = "completed"
    EXPIRED = "expired"  #: Its time passed; the lines without a result are in the error file.
    CANCELLING = "cancelling"  #: Its jobs are being cancelled.
    CANCELLED = "cancelled"


#: Statuses that a batch never leaves.
ENDED = frozenset(
    {BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}
)


@dataclass(frozen=True, order=True)
class Place:
    """The start of a line in a file: its number from 1, the block, and the byte in the block."""

    line: int
    block: int
    offset: int

    def __str__(self) -> str:
        """The place as it is stored."""
        return f"{self.line}:{self.block}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Parse the text that `str` returns."""
        line, block, offset = map(int, text.split(":"))
        return cls(line, block, offset)


START = Place(1, 0, 0)


@dataclass(frozen=True, kw_only=True)
class OpenLine:
    """A line that was started and has no result yet."""

    place: Place
    custom_id: str


@dataclass(frozen=True, kw_only=True)
class LineResult:
    """The result of one line: a line of the output or of the error file."""

    line: int
    file: Literal["out", "err"]
    text: bytes
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch's record. Times: ms since the epoch, by Redis; `at` has the time of each status."""

    id: str
    tenant: str
    endpoint: EndpointPath
    input_file_id: str
    status: BatchStatus
    metadata: dict[str, str] | None
    created_ms: int
    expires_ms: int
    output_ttl_ms: int
    cursor: Place
    max_body_bytes: int | None = None  #: The limit when the batch was accepted.
    model: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    out_blocks: int = 0
    out_bytes: int = 0
    err_blocks: int = 0
    err_bytes: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    at: Mapping[str, int] = field(default_factory=dict)


class BatchLost(Exception):
    """Another runner works on the batch now."""


def read_batch(batch_id: str, raw: Mapping[bytes, bytes]) -> Batch | None:
    """Read a batch's record; None: there is none, or it is damaged, which is logged."""
    try:
        r = {name.decode(): value.decode() for name, value in raw.items()}
        return _read(batch_id, r) if "status" in r else None
    except (ValueError, KeyError, TypeError):
        log.exception("the record of a batch cannot be read", extra={"batch_id": batch_id})
        return None


def _read(batch_id: str, r: Mapping[str, str]) -> Batch:
    counts = [
        *("total", "completed", "failed", "input_tokens", "output_tokens"),
        *("out_blocks", "out_bytes", "err_blocks", "err_bytes"),
    ]
    return Batch(
        id=batch_id,
        tenant=r["tenant"],
        endpoint=cast("EndpointPath", r["endpoint"]),
        input_file_id=r["input_file_id"],
        status=BatchStatus(r["status"]),
        metadata=json.loads(r["metadata"]),
        created_ms=int(r["created_ms"]),
        expires_ms=int(r["expires_ms"]),
        output_ttl_ms=int(r["output_ttl_ms"]),
        cursor=Place.parse(r["cursor"]),
        max_body_bytes=int(r["max_body_bytes"]) if "max_body_bytes" in r else None,
        model=r.get("model"),
        output_file_id=r.get("output_file_id"),
        error_file_id=r.get("error_file_id"),
        errors=json.loads(r.get("errors", "[]")),
        at={status: int(r[f"{status}_ms"]) for status in BatchStatus if f"{status}_ms" in r},
        **{name: int(r.get(name, 0)) for name in counts},
    )
