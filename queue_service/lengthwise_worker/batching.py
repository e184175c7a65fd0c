"""Decide how many jobs a worker may claim now: one, a batch, or as slots free up. Pure.

Called by claimer.py before every claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BatchingMode(StrEnum):
    """When the next job may join the running ones."""

    NONE = "none"  #: One job at a time.
    STATIC = "static"  #: A batch is filled, runs, and ends as a whole before the next one starts.
    CONTINUOUS = "continuous"  #: A job joins as soon as a slot is free; the engine batches.
    #: The same, but the engine makes static batches of its requests, by predicted length.
    SEQUENCE = "sequence"


@dataclass(frozen=True, kw_only=True)
class Batching:
    """The batching rule of one worker.

    `slots`: jobs at once, >= 1. `wait_ms`: how long an unfilled static batch waits for more, ms.
    """

    mode: BatchingMode
    slots: int
    wait_ms: int = 0

    @property
    def capacity(self) -> int:
        """The most jobs that run at once."""
        return 1 if self.mode is BatchingMode.NONE else self.slots

    @property
    def refills_at_once(self) -> bool:
        """Whether the report of a completed job may claim the next job for its slot."""
        return self.mode is not BatchingMode.STATIC

    def room(self, running: int, *, filling: bool = False) -> int:
        """Return how many more jobs may be claimed.

        Args:
            running: Jobs that are claimed and not finished.
            filling: Static only: those jobs are a batch that has not started yet.
        """
        if self.mode is BatchingMode.STATIC and running > 0 and not filling:
            return 0
        return max(0, self.capacity - running)
