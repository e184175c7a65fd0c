"""When to stop asking a predictor that does not answer, and when to try again. Pure."""

from __future__ import annotations

#: So many failures in a row open the breaker: one slow answer is not an outage.
FAILURES_TO_OPEN = 5

#: First pause before a probe, s; doubled by each failed probe.
FIRST_PAUSE_S = 0.5

#: Longest pause, s: a predictor that is back is noticed within this.
LONGEST_PAUSE_S = 5.0


class Breaker:
    """Closed: everybody asks. Open: nobody does. Half open: one asks, for all.

    All times are the caller's monotonic seconds.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._retry_at_s: float | None = None  # None: closed

    @property
    def is_open(self) -> bool:
        """Whether the last probe failed, or none was made yet."""
        return self._retry_at_s is not None

    def allows(self, now_s: float) -> bool:
        """Whether the caller may ask now; if the breaker is open, it is then the probe."""
        if self._retry_at_s is None:
            return True
        if now_s < self._retry_at_s:
            return False
        self._retry_at_s = now_s + self._pause_s  # the others wait for this probe's answer
        return True

    def succeeded(self) -> None:
        """An answer came: close."""
        self._failures, self._pause_s, self._retry_at_s = 0, FIRST_PAUSE_S, None

    def failed(self, now_s: float) -> None:
        """No answer came, or a wrong one."""
        self._failures += 1
        if self._retry_at_s is not None:  # the probe failed
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        elif self._failures < FAILURES_TO_OPEN:
            return
        self._retry_at_s = now_s + self._pause_s
