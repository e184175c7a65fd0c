"""The record of a response, which the store keeps beside its job. A value."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, fields
from typing import Any

log = logging.getLogger(__name__)

#: An object of JSON that this product does not look into.
JsonObject = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ResponseRecord:
    """The data of a response that OpenAI's Responses API needs besides the job."""

    id: str
    job_id: str
    queue: str
    tenant: str
    created_ms: int
    background: bool
    echo: JsonObject
    items: list[JsonObject]  #: The input.
    earlier: list[str]  #: Ids of the responses that it continues, the oldest first.

    def as_json(self) -> JsonObject:
        """Return the record as it is stored."""
        return asdict(self)


def read_record(stored: JsonObject) -> ResponseRecord | None:
    """Read a stored record; None: another release wrote it, and a field is missing."""
    known = {one.name: stored[one.name] for one in fields(ResponseRecord) if one.name in stored}
    try:
        return ResponseRecord(**known)
    except TypeError:
        log.warning("record of a response cannot be read", extra={"response": stored.get("id")})
        return None
