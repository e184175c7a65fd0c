"""Whether the queue service is being rolled out just now, so that the workers' own rollout waits.

`helm upgrade` replaces the queue service and the operator at once, and a new operator would replace
the workers at its first look. Workers of this release say some things that a queue service of the
release before does not hear (docs/decisions/0004-one-reader-connection.md). Called by `rounds.py`,
only for services whose worker is of another image: at rest nobody is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

from lengthwise_operator.errors import Refused

log = logging.getLogger(__name__)

#: An answer is good for so long, s.
_GOOD_S = 2.0

#: After this, the workers are replaced in any case, s: a queue service that cannot be rolled out
#: (no image, no room) must not keep the engines from being scaled and repaired.
GIVES_UP_S = 600.0


class _Deployments(Protocol):
    def deployment(self, namespace: str, name: str) -> Mapping[str, Any] | None: ...


class QueueRollout:
    """One for the operator's process."""

    def __init__(self, deployment: str, cluster: _Deployments) -> None:
        """`deployment`: namespace/name; "": nothing is ever waited for."""
        self._namespace, _, self._name = deployment.partition("/")
        self._cluster = cluster
        self._asking = asyncio.Lock()
        self._known: tuple[float, bool] | None = None
        self._since_s: float | None = None

    async def under_way(self) -> bool:
        """Ask the cluster, or answer from memory.

        Raises:
            Unreachable: The API server does not answer.
        """
        if not self._name:
            return False
        async with self._asking:
            now_s = time.monotonic()
            if self._known is None or now_s - self._known[0] > _GOOD_S:
                self._known = (now_s, await self._ask())
                if not self._known[1]:
                    self._since_s = None
                elif self._since_s is None:
                    self._since_s = now_s
                    log.info("workers wait until the queue service has been rolled out")
        return self._since_s is not None and now_s - self._since_s < GIVES_UP_S

    async def _ask(self) -> bool:
        try:
            found = await asyncio.to_thread(self._cluster.deployment, self._namespace, self._name)
        except Refused as exc:
            log.warning("may not look at the queue service", extra={"problem": exc.message})
            return False
        return found is not None and not rolled_out(found)


def rolled_out(deployment: Mapping[str, Any]) -> bool:
    """Whether every pod of a Deployment is of its present template, and answers."""
    status = deployment.get("status", {})
    wanted = deployment["spec"].get("replicas", 1)
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    counts = (status.get(k, 0) for k in ("replicas", "updatedReplicas", "availableReplicas"))
    return seen and all(count == wanted for count in counts)
