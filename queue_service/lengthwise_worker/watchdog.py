"""Finds the worker that lives but never claims again, the commonest failure of job queues.

Fed by worker.py at every look; pure, the time is passed in.
"""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What the worker is to do."""

    FINE = "fine"
    RECONNECT = "reconnect"  #: Open new connections to the store.
    GIVE_UP = "give_up"  #: Those did not help: end the process, with an exit code other than 0.


class Watchdog:
    """Counts the time in which work waited, slots were free, and nothing was claimed."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._idle_since: float | None = None
        self._reconnected = False

    def claimed(self) -> None:
        """A job was claimed: all is well."""
        self._idle_since = None
        self._reconnected = False

    def look(self, now_s: float, *, starving: bool) -> Verdict:
        """Judge one look at the queue.

        Args:
            now_s: Of a monotonic clock, s.
            starving: Jobs wait and may be claimed, and slots are free; the engine is well and the
                store answers.
        """
        if not starving:
            self._idle_since = None
            return Verdict.FINE
        if self._idle_since is None:
            self._idle_since = now_s
        if now_s - self._idle_since < self._patience_s:
            return Verdict.FINE
        self._idle_since = now_s
        if self._reconnected:
            return Verdict.GIVE_UP
        self._reconnected = True
        return Verdict.RECONNECT
