"""Tenants: who may ask for what, and how much of it. Values, and the reading of their file.

Called by `tenant_registry`, which keeps the file's content current, and by the `lengthwise tenants`
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

#: Begins what is kept of a key, and says how it was made.
HASH_PREFIX = "sha256:"

#: Largest file, bytes: that of a Kubernetes Secret.
MAX_FILE = 2**20

KeyHash = Annotated[str, StringConstraints(pattern=rf"^{HASH_PREFIX}[0-9a-f]{{64}}$")]


class Tenant(BaseModel):
    """One tenant. Its limits are per service: each model's queue counts for itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # It is a part of Redis keys, where a colon would let one tenant write another's.
    name: str = Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9_.]*[a-z0-9])?$")
    keys: tuple[KeyHash, ...] = Field(default=(), description="Hashes of its API keys")
    weight: float = Field(
        default=1.0, ge=0.01, le=100, description="Its share of the tokens when all are busy"
    )
    requests_per_minute: int | None = Field(default=None, ge=1, description="null: no limit")
    tokens_per_minute: int | None = Field(
        default=None, ge=1, description="Output tokens; null: no limit"
    )
    services: tuple[str, ...] = Field(
        default=("*",), description="Models it may ask, `*` stands for any text; an admin any"
    )
    depth_share: float = Field(
        default=1.0, gt=0, le=1, description="Part of a queue's max_depth that it may fill"
    )
    admin: bool = Field(
        default=False, description="May change and pause queues, redrive, and see every job"
    )

    def may_use(self, service: str) -> bool:
        """Whether it may ask this model."""
        return self.admin or any(fnmatchcase(service, pattern) for pattern in self.services)

    def max_depth(self, queue_max_depth: int) -> int | None:
        """How many of its jobs may wait in a queue; None: as many as the queue takes."""
        if self.depth_share >= 1:
            return None
        return max(1, math.floor(self.depth_share * queue_max_depth))


#: Everybody, where there are no keys: the open mode of a laptop.
EVERYBODY = Tenant(name="default", admin=True)


class TenantsFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # A file without tenants would lock everybody out: more likely it was cut short.
    tenants: tuple[Tenant, ...] = Field(min_length=1, max_length=10_000)

    @model_validator(mode="after")
    def _distinct(self) -> TenantsFile:
        names: set[str] = set()
        owners: dict[str, str] = {}
        for tenant in self.tenants:
            if tenant.name in names:
                raise ValueError(f"the tenant {tenant.name!r} is there twice")
            names.add(tenant.name)
            for key in tenant.keys:
                if owners.setdefault(key, tenant.name) != tenant.name:
                    raise ValueError(
                        f"the tenants {owners[key]!r} and {tenant.name!r} have the same key"
                    )
        return self


def read_tenants(raw: bytes) -> tuple[Tenant, ...]:
    """The tenants of a file, YAML or JSON.

    Raises:
        ValueError: It cannot be taken as it is. The message says where and why, and never quotes
            the file: somebody may have put a key there instead of its hash.
    """
    if len(raw) > MAX_FILE:
        raise ValueError(f"the file has {len(raw)} bytes, and at most {MAX_FILE} are read")
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
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(map(str, one["loc"])) or "the file"
        what = one["msg"].removeprefix("Value error, ")
        if "keys" in one["loc"] and one["type"] == "string_pattern_mismatch":
            what = (
                f"a key's hash must be `{HASH_PREFIX}` and 64 hexadecimal digits; "
                "`lengthwise tenants hash-key` makes it from a key"
            )
        found.append(f"{where}: {what}")
    return found
