"""The facts about all queues, from the last poll of the queue service."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lengthwise_operator.clients.queue_service import QueueServiceClient
from lengthwise_operator.errors import OperatorError
from lengthwise_operator.observed import QueueFacts

log = logging.getLogger(__name__)


class PolledQueues:
    """Singleton. Holds the facts about every queue, and changes queues."""

    def __init__(self, client: QueueServiceClient) -> None:
        """Call nothing yet; until the first poll, `problem` is set."""
        self._client = client
        self._facts: dict[str, QueueFacts] = {}
        self.problem = "the queue service was not asked yet"

    def facts(self, queue: str) -> QueueFacts | None:
        """The facts about one queue; None: it does not exist, or the last poll failed."""
        return None if self.problem else self._facts.get(queue)

    async def poll(self) -> set[str]:
        """Read all queues; return the names of those that changed enough to reconcile at once."""
        before, problem = self._facts, self.problem
        try:
            self._facts, self.problem = await self._client.read_all(), ""
        except OperatorError as exc:
            self.problem = exc.message
        names = set(self._facts) | set(before)
        if self.problem != problem:
            if self.problem:
                log.warning("queue service unreachable", extra={"problem": self.problem})
            return names
        return {n for n in names if _essential(self._facts.get(n)) != _essential(before.get(n))}

    async def put(self, queue: str, settings: Mapping[str, Any]) -> None:
        """Create a queue or change its settings.

        Raises:
            Refused: The settings are wrong; the message names them.
            Unreachable: The queue service does not answer.
        """
        self._facts[queue] = await self._client.put(queue, settings)

    async def command(self, queue: str, command: str) -> None:
        """Send `drain` or `resume` to a queue.

        Raises:
            Refused: The queue service cannot do it.
            Unreachable: The queue service does not answer.
        """
        await self._client.command(queue, command)


def _essential(facts: QueueFacts | None) -> Any:
    """The facts whose change is a reason to reconcile the service at once."""
    if facts is None:
        return None
    return (
        facts.depth,
        facts.in_flight,
        facts.mode,
        facts.active_policy,
        facts.fallback_active,
        facts.engine_problem,
        facts.settings,
    )
