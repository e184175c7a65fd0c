"""The base model, field types and durations that all parts of the resource share. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
QUANTITY = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]+)?$"
DNS_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

#: A Kubernetes object that the API server checks when it is used, not here.
Opaque = Annotated[dict[str, Any], Field(json_schema_extra={"opaque": True})]

#: `nvidia.com/gpu: 1` as well as `memory: 8Gi`.
Quantities = dict[str, int | Annotated[str, Field(pattern=QUANTITY, max_length=64)]]

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_UNITS_MS = (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


class Part(BaseModel):
    """A part of the resource: camelCase in manifests, snake_case in Python.

    Unknown fields are ignored. The API server has already pruned them, and an operator that is one
    version older than its CRD must keep working.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True
    )


def seconds(duration: str) -> float:
    """Convert a duration such as `1h30m` to seconds.

    Raises:
        ValueError: The text does not have that form.
    """
    if not re.fullmatch(DURATION, duration):
        raise ValueError(f"expected a duration such as 30s, 10m or 1h30m, got {duration!r}")
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", duration)
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def duration_of(duration_ms: int) -> str:
    """Write milliseconds as a duration, in the largest unit that needs no fraction."""
    if duration_ms == 0:
        return "0s"
    unit, unit_ms = next(unit for unit in _UNITS_MS if duration_ms % unit[1] == 0)
    return f"{duration_ms // unit_ms}{unit}"
