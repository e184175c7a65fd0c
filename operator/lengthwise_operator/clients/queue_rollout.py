"""Detect a rollout of the queue service, so that the workers' rollout waits for it.

`helm upgrade` replaces the queue service and the operator at the same time, and a new operator
would replace the workers in its first reconciliation. Workers of this release send messages that a
queue service of the previous release does not read
(docs/decisions/0004-one-reader-connection.md). `observer.py` asks only for services whose worker
has an outdated image, so that a system at rest makes no calls.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

from lengthwise_operator.errors import Refused

log = logging.getLogger(__name__)

#: An answer is reused for this long, s.
_REUSE_S = 2.0

#: After this time the workers are replaced in any case, s. A queue service whose rollout cannot
#: succeed (no image, no free node) must not prevent the scaling and repair of engines.
GIVE_UP_S = 600.0


class _Deployments(Protocol):
    def find(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None: ...


class QueueRollout:
    """Singleton. Answers for all services with one call of the API."""

    def __init__(self, deployment: str, cluster: _Deployments) -> None:
        """`deployment`: namespace/name; "": no rollout is ever detected."""
        self._namespace, _, self._name = deployment.partition("/")
        self._cluster = cluster
        self._lock = asyncio.Lock()
        self._answer: tuple[float, bool] | None = None
        self._since_s: float | None = None

    async def in_progress(self) -> bool:
        """Ask the cluster, or reuse its recent answer.

        Raises:
            Unreachable: The API server does not answer.
        """
        if not self._name:
            return False
        async with self._lock:
            now_s = time.monotonic()
            if self._answer is None or now_s - self._answer[0] > _REUSE_S:
                self._answer = (now_s, await self._ask())
                if not self._answer[1]:
                    self._since_s = None
                elif self._since_s is None:
                    self._since_s = now_s
                    log.info("workers wait for the rollout of the queue service")
        return self._since_s is not None and now_s - self._since_s < GIVE_UP_S

    async def _ask(self) -> bool:
        try:
            found = await asyncio.to_thread(
                self._cluster.find, "Deployment", self._namespace, self._name
            )
        except Refused as exc:
            log.warning(
                "not allowed to read the queue service's Deployment", extra={"problem": exc.message}
            )
            return False
        return found is not None and not rolled_out(found)


def rolled_out(deployment: Mapping[str, Any]) -> bool:
    """Whether every pod of a Deployment has the current template and is available."""
    status = deployment.get("status", {})
    wanted = deployment["spec"].get("replicas", 1)
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    counts = (status.get(k, 0) for k in ("replicas", "updatedReplicas", "availableReplicas"))
    return seen and all(count == wanted for count in counts)
