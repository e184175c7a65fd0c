"""What the store keeps of a response beside its job. A value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

JsonObject = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ResponseRecord:
    """What is known of a response beside its job."""

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
        """What is stored."""
        return asdict(self)
