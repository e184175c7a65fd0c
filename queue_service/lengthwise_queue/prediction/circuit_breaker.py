"""Decide when to stop asking a predictor that does not answer, and when to try again. Pure."""

from __future__ import annotations

#: The failures in a row that open the breaker: one slow answer is not an outage.
FAILURES_TO_OPEN = 5

#: The first pause before a probe, s; each failed probe doubles it.
FIRST_PAUSE_S = 0.5

#: The longest pause, s: a predictor that has recovered is noticed within this.
LONGEST_PAUSE_S = 5.0


class Breaker:
    """Closed: every caller asks. Open: no caller asks. Half open: one caller asks, as a probe.

    All times are seconds of the caller's monotonic clock.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._retry_at_s: float | None = None  # None: closed

    @property
    def is_open(self) -> bool:
        """Whether the predictor failed, and no probe has succeeded since."""
        return self._retry_at_s is not None

    def allows(self, now_s: float) -> bool:
        """Return whether the caller may ask now; while the breaker is open, as a probe."""
        if self._retry_at_s is None:
            return True
        if now_s < self._retry_at_s:
            return False
        self._retry_at_s = now_s + self._pause_s  # no other caller asks meanwhile
        return True

    def succeeded(self) -> None:
        """Record an answer: close the breaker."""
        self._failures, self._pause_s, self._retry_at_s = 0, FIRST_PAUSE_S, None

    def failed(self, now_s: float) -> None:
        """Record that no answer came, or a wrong one."""
        self._failures += 1
        if self._retry_at_s is not None:  # the probe failed
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        elif self._failures < FAILURES_TO_OPEN:
            return
        self._retry_at_s = now_s + self._pause_s
