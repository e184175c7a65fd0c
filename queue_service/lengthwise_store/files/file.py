"""The record of a file."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, fields

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A complete file. Times: ms since the epoch, by Redis."""

    id: str
    tenant: str
    filename: str
    purpose: str
    bytes: int
    blocks: int
    created_ms: int
    expires_ms: int
    content: str  #: The key of its blocks.


_FIELDS = tuple(field.name for field in fields(StoredFile))


def read_file(raw: bytes) -> StoredFile | None:
    """Read a file's record; None: it is damaged. A later release may have added fields."""
    try:
        known = json.loads(raw)
        return StoredFile(**{name: known[name] for name in _FIELDS})
    except (ValueError, KeyError, TypeError):
        log.exception("the record of a file cannot be read")
        return None


class FileGone(Exception):
    """A file was deleted, or expired, while it was read."""
