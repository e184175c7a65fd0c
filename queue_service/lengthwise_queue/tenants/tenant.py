"""Tenants, their limits, and the parser of the tenants file. Pure.

Called by `registry`, which keeps the content of the file current, and by the `lengthwise tenants`
commands, which check it.
"""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import Annotated

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

#: The prefix of the hash of a key; it names the algorithm.
HASH_PREFIX = "sha256:"

#: The largest file, bytes: the limit of a Kubernetes Secret.
MAX_FILE = 2**20

KeyHash = Annotated[str, StringConstraints(pattern=rf"^{HASH_PREFIX}[0-9a-f]{{64}}$")]


class Tenant(BaseModel):
    """One tenant. Its limits hold for each model's queue separately."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # The name is a part of Redis keys, where a colon would let one tenant write another's keys.
    name: str = Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9_.]*[a-z0-9])?$")
    keys: tuple[KeyHash, ...] = Field(
        default=(), description="Hashes of its API keys; none: no client can be this tenant"
    )
    weight: float = Field(
        default=1.0,
        ge=0.01,
        le=100,
        description="Its share of the output tokens while several tenants have jobs waiting",
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, description="Jobs that it may submit per minute; null: no limit"
    )
    tokens_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Predicted output tokens of these per minute; null: no limit",
    )
    services: tuple[str, ...] = Field(
        default=("*",),
        description="Models that it may use; `*` matches any text. An admin may use every model",
    )
    depth_share: float = Field(
        default=1.0, gt=0, le=1, description="Share of a queue's `max_depth` that its jobs may take"
    )
    admin: bool = Field(
        default=False,
        description="Whether it may change and pause queues, redrive jobs, and see every job",
    )

    def may_use(self, service: str) -> bool:
        """Return whether the tenant may use this model."""
        return self.admin or any(fnmatchcase(service, pattern) for pattern in self.services)

    def max_depth(self, queue_max_depth: int) -> int | None:
        """Return how many of its jobs may wait in a queue; None: as many as the queue allows."""
        if self.depth_share >= 1:
            return None
        return max(1, math.floor(self.depth_share * queue_max_depth))


#: The tenant of every client where there are no keys: the open mode of a laptop.
EVERYONE = Tenant(name="default", admin=True)


class TenantsFile(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # A file without tenants would lock every client out. More likely it is incomplete.
    tenants: tuple[Tenant, ...] = Field(min_length=1, max_length=10_000)

    @model_validator(mode="after")
    def _distinct(self) -> TenantsFile:
        names: set[str] = set()
        owners: dict[str, str] = {}
        for tenant in self.tenants:
            if tenant.name in names:
                raise ValueError(f"the tenant {tenant.name!r} is listed twice")
            names.add(tenant.name)
            for key in tenant.keys:
                if owners.setdefault(key, tenant.name) != tenant.name:
                    raise ValueError(
                        f"the tenants {owners[key]!r} and {tenant.name!r} have the same key"
                    )
        return self


def read_tenants(raw: bytes) -> tuple[Tenant, ...]:
    """Parse a file, YAML or JSON.

    Raises:
        ValueError: The file is invalid. The message names the place and the reason, and never
            quotes the file: it may contain a key instead of its hash.
    """
    if len(raw) > MAX_FILE:
        raise ValueError(f"the file has {len(raw)} bytes; the limit is {MAX_FILE}")
    try:
        content = yaml.safe_load(raw)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        where = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        raise ValueError(f"the file is neither YAML nor JSON{where}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ValueError("the file is neither YAML nor JSON in UTF-8") from None
    try:
        return TenantsFile.model_validate(content).tenants
    except ValidationError as exc:
        raise ValueError("; ".join(_problems(exc)[:5])) from None


def _problems(error: ValidationError) -> list[str]:
    found = []
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    # A list is too short because its entries are wrong: that is not one more problem.
    causes = {one["loc"][:depth] for one in errors for depth in range(len(one["loc"]))}
    for one in errors:
        if one["loc"] in causes and one["type"] == "too_short":
            continue
        where = ".".join(map(str, one["loc"])) or "the file"
        what = one["msg"].removeprefix("Value error, ")
        if "keys" in one["loc"] and one["type"] == "string_pattern_mismatch":
            what = (
                f"a key's hash must be `{HASH_PREFIX}` and 64 hexadecimal digits; "
                "`lengthwise tenants hash-key` makes it from a key"
            )
        found.append(f"{where}: {what}")
    return found
