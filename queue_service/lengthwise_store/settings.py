"""Times and bounds of the store of jobs. Values only.

Made by the settings of the queue service and of the worker, and read by `JobStore`.
"""

from __future__ import annotations

from dataclasses import dataclass

from lengthwise_contract.defaults import (
    BEAT_MS,
    DURABILITY_REPLICAS,
    DURABILITY_TIMEOUT_MS,
    LEASE_MS,
    TICK_MS,
    WORKER_TTL_MS,
)
from lengthwise_store.redis.durability import Durability


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """Times and bounds of a store. Every process that uses one Redis should have the same."""

    lease_ms: int = LEASE_MS  #: The jobs of a silent worker return to the queue after this.
    beat_ms: int = BEAT_MS  #: A third of the lease, so that two heartbeats may be lost.
    tick_ms: int = TICK_MS
    retention_ms: int = 3_600_000  #: How long a finished job can be read.
    dead_retention_ms: int = 7 * 86_400_000  #: How long a failed job can be read.
    worker_ttl_ms: int = WORKER_TTL_MS  #: A worker that is silent for this long is forgotten.
    max_output_entries: int = 100_000  #: Bound on one job's stream; about one entry a token.
    keep_finished: int = 10_000  #: Ids kept in each tenant's lists of finished and of dead jobs.
    connect_timeout_s: float = 1.0
    command_timeout_s: float = 5.0
    durability: Durability = Durability.ASYNC  #: What an acknowledged submit or finish survives.
    durability_replicas: int = (
        DURABILITY_REPLICAS  #: Mode `replica`: this many replicas must confirm.
    )
    durability_timeout_ms: int = DURABILITY_TIMEOUT_MS  #: Longest wait for a confirmation.
