"""How many jobs a worker may take now: one at a time, whole batches, or as slots free up. Pure.

Called by worker.py before every claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BatchingMode(StrEnum):
    """When the next job may join those that run."""

    NONE = "none"  #: One job at a time.
    STATIC = "static"  #: A batch is filled, runs, and ends as a whole before the next is begun.
    CONTINUOUS = "continuous"  #: A job joins as soon as a slot is free; the engine's own way.
    #: The same, but the engine makes static batches of what it has, by predicted length.
    SEQUENCE = "sequence"


@dataclass(frozen=True, kw_only=True)
class Batching:
    """The rule of one worker.

    `slots`: jobs at once, >= 1. `wait_ms`: how long an unfilled static batch waits for more, ms.
    """

    mode: BatchingMode
    slots: int
    wait_ms: int = 0

    @property
    def capacity(self) -> int:
        """The most jobs that ever run at once."""
        return 1 if self.mode is BatchingMode.NONE else self.slots

    @property
    def hands_on(self) -> bool:
        """Whether the slot of a job that ends may go to the next job in the same breath."""
        return self.mode is not BatchingMode.STATIC

    def room(self, running: int, *, filling: bool = False) -> int:
        """How many more jobs may be claimed.

        Args:
            running: Jobs that are claimed and not finished.
            filling: Static only: those jobs are a batch that has not begun yet.
        """
        if self.mode is BatchingMode.STATIC and running > 0 and not filling:
            return 0
        return max(0, self.capacity - running)
