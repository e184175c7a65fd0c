"""Decides how many jobs a replica may get while its calls fail. Pure: the time is passed in.

A sick replica answers fast, or never, and would take job after job from the replicas that work. So
failed calls open the breaker: nothing is claimed. A probe with one real token, repeated ever less
often, lets one job in; each job that succeeds doubles the number, until all slots are in use. One
at a time, a job that breaks its engine is found: it fails alone, and spends its attempt. Others go
back to the queue as they came (docs/decisions/0091-whose-fault-a-failed-call-is.md). Called by
engine_watch.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

#: This many different jobs failed since the last success: the fault is the replica's, although its
#: probes succeed.
FAILING_JOBS = 3

#: Pauses before the probes of an open breaker, s: they double, from the first to the last.
FIRST_PAUSE_S, LAST_PAUSE_S = 2.0, 60.0


@dataclass
class Breaker:
    """The breaker of one replica.

    `capacity`: the slots of the worker. `problem`: why it is open, in words; None: it is not.
    """

    capacity: int
    problem: str | None = None
    _limit: float = math.inf
    _failing: set[str] = field(default_factory=set)
    _opened_in_a_row: int = 0
    _probe_at_s: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether nothing may be claimed."""
        return self.problem is not None

    @property
    def on_trial(self) -> bool:
        """Whether only some slots are in use, because the replica was in trouble."""
        return not self.is_open and self._limit < self.capacity

    def room(self, running: int) -> float:
        """Return how many more jobs may be claimed. `running`: those that are claimed."""
        return 0 if self.is_open else max(0, self._limit - running)

    def trip(self, problem: str, now_s: float) -> None:
        """Open the breaker. `problem`: why, in words."""
        if not self.is_open:
            pause_s = FIRST_PAUSE_S * 2.0 ** min(self._opened_in_a_row, 10)
            self._probe_at_s = now_s + min(LAST_PAUSE_S, pause_s)
            self._opened_in_a_row += 1
        self.problem = problem

    def probe_due_s(self, now_s: float) -> float | None:
        """Return in how many seconds a probe may close the breaker; None: it is not open."""
        return max(0.0, self._probe_at_s - now_s) if self.is_open else None

    def probed(self, problem: str | None, now_s: float) -> None:
        """Note the result of a probe of an open breaker. `problem`: None if it succeeded."""
        if not self.is_open:
            return
        if problem is None:
            self.problem, self._limit = None, 1
            self._failing.clear()
        else:
            self.problem = problem
            self._probe_at_s = now_s + min(LAST_PAUSE_S / 4, FIRST_PAUSE_S)

    def answered(self) -> None:
        """Note that a job was answered."""
        self._failing.clear()
        if self.is_open:
            return
        self._opened_in_a_row = 0
        self._limit = self._limit * 2 if self._limit * 2 < self.capacity else math.inf

    def job_failed(self, job_id: str, problem: str, now_s: float) -> bool:
        """Note that a job failed although a probe succeeds, and return whether it failed alone.

        Several different jobs that failed without a success in between open the breaker.
        """
        self._failing.add(job_id)
        alone = self._failing == {job_id}
        if len(self._failing) >= min(FAILING_JOBS, self.capacity + 1) or self.on_trial:
            self.trip(problem, now_s)
        return alone
