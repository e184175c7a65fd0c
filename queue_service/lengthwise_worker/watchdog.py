"""Detects a worker that runs but never claims again, the commonest failure of job queues.

Called by worker.py at every check. Pure: the time is passed in.
"""

from __future__ import annotations

from enum import StrEnum


class WatchdogAction(StrEnum):
    """The reaction of the worker to a check."""

    NONE = "none"
    RECONNECT = "reconnect"  #: Open new connections to the store.
    GIVE_UP = (
        "give_up"  #: New connections did not help: end the process, with an exit code other than 0.
    )


class Watchdog:
    """Counts the time in which work waited, slots were free, and nothing was claimed."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._idle_since: float | None = None
        self._reconnected = False

    def claimed(self) -> None:
        """Note that a job was claimed."""
        self._idle_since = None
        self._reconnected = False

    def check(self, now_s: float, *, starving: bool) -> WatchdogAction:
        """Judge one check of the queue.

        Args:
            now_s: Time of a monotonic clock, s.
            starving: Jobs wait and may be claimed, slots are free, the engine is healthy and the
                store answers.
        """
        if not starving:
            self._idle_since = None
            return WatchdogAction.NONE
        if self._idle_since is None:
            self._idle_since = now_s
        if now_s - self._idle_since < self._patience_s:
            return WatchdogAction.NONE
        self._idle_since = now_s
        if self._reconnected:
            return WatchdogAction.GIVE_UP
        self._reconnected = True
        return WatchdogAction.RECONNECT
