"""What the no-op job of every library does: count, and keep the time.

Lives in the worker's process. It tells the measuring process by lines of JSON on standard output.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from typing import TextIO


class Probe:
    """Counts the jobs of a burn-down, and gathers the waits of an open loop.

    Args:
        warm_up: Jobs that are not counted, the first ones.
        jobs: Jobs that are.
        paced: Jobs of the open loop that follows.
        concurrency: How many jobs the worker is to have at once; 1 where it can have no more.
        out: Where to speak.
    """

    def __init__(
        self, *, warm_up: int, jobs: int, paced: int, concurrency: int, out: TextIO
    ) -> None:
        self.concurrency = concurrency
        self._warm_up, self._last, self._paced, self._out = warm_up, warm_up + jobs, paced, out
        self._count = itertools.count(1)  # its next() is atomic: two of the libraries use threads
        self._waits_s: list[float] = []

    def job(self, sent_s: float) -> None:
        """A job runs.

        Args:
            sent_s: When it was to be sent, on the machine's monotonic clock; 0: burn-down.
        """
        if sent_s:
            self._waits_s.append(time.monotonic() - sent_s)
            if len(self._waits_s) == self._paced:
                self._say("paced", waits_s=self._waits_s)
            return
        number = next(self._count)
        if number == self._warm_up:
            self._say("begun")
        elif number == self._last:
            self._say("done")

    def _say(self, event: str, **more: object) -> None:
        times = {"at_s": time.monotonic(), "cpu_s": time.process_time()}
        print(json.dumps({"event": event, "pid": os.getpid()} | times | more), file=self._out)
        self._out.flush()
