"""Handles an outage of Redis: growing, jittered pauses, and one log line at each end of it.

Called by every loop that uses the store, and by job_run.py.
"""

from __future__ import annotations

import logging
import random
import time

log = logging.getLogger(__name__)


class Backoff:
    """Pauses that double from `base_s` to `cap_s`, each cut to a random half or more of itself."""

    def __init__(self, base_s: float = 0.1, cap_s: float = 5.0) -> None:
        self._base_s, self._cap_s, self._failures = base_s, cap_s, 0

    def next_s(self) -> float:
        """Return the next pause, s."""
        full = min(self._cap_s, self._base_s * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return full * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret

    def reset(self) -> None:
        """Note a success: the next pause is short again."""
        self._failures = 0


class StoreLink:
    """Whether the store answers; each change is logged once, by the loop that notices it first."""

    def __init__(self) -> None:
        self._unavailable_since: float | None = None

    @property
    def unavailable(self) -> bool:
        """Whether the last call to the store failed."""
        return self._unavailable_since is not None

    def failed(self, exc: Exception) -> None:
        """Note that a call to the store failed."""
        if self._unavailable_since is None:
            self._unavailable_since = time.monotonic()
            log.warning("store unavailable", extra={"cause": repr(exc.__cause__ or exc)})

    def worked(self) -> None:
        """Note that a call to the store was answered."""
        if self._unavailable_since is not None:
            unavailable_s = time.monotonic() - self._unavailable_since
            self._unavailable_since = None
            log.info("store available again", extra={"unavailable_s": round(unavailable_s, 3)})
