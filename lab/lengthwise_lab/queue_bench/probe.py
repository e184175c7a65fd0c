"""The body of the no-op job of every library: it counts the jobs and measures their waits.

It runs in the worker's process, and reports to the measuring process with lines of JSON on standard
output.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from typing import TextIO


class Probe:
    """Counts the jobs of a burst, and collects the waits of an open loop.

    Args:
        warm_up: Jobs at the start that are not counted.
        jobs: Counted jobs.
        paced: Jobs of the open loop that follows.
        concurrency: Jobs that the worker runs at once; a library without concurrency runs 1.
        out: Gets the lines of JSON.
    """

    def __init__(
        self, *, warm_up: int, jobs: int, paced: int, concurrency: int, out: TextIO
    ) -> None:
        self.concurrency = concurrency
        self._warm_up, self._last, self._paced, self._out = warm_up, warm_up + jobs, paced, out
        self._count = itertools.count(1)  # next() is atomic; two of the libraries use threads
        self._waits_s: list[float] = []

    def job(self, sent_s: float) -> None:
        """Record a job.

        Args:
            sent_s: When it was due to be sent, on the machine's monotonic clock; 0: a burst.
        """
        if sent_s:
            self._waits_s.append(time.monotonic() - sent_s)
            if len(self._waits_s) == self._paced:
                self._report("paced", waits_s=self._waits_s)
            return
        number = next(self._count)
        if number == self._warm_up:
            self._report("started")
        elif number == self._last:
            self._report("done")

    def _report(self, event: str, **more: object) -> None:
        times = {"at_s": time.monotonic(), "cpu_s": time.process_time()}
        print(json.dumps({"event": event, "pid": os.getpid()} | times | more), file=self._out)
        self._out.flush()
