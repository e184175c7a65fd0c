"""The record of a response, which the store keeps beside its job. A value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

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
    turns: list[JsonObject]  #: The chat so far, without instructions; for a next response.

    def as_json(self) -> JsonObject:
        """Return the record as it is stored."""
        return asdict(self)
