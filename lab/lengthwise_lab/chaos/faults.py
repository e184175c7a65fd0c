"""What will be done to the system, and when: from the seed alone. Pure. Carried out by nemesis.py.

The plan counts in jobs handed in, not in seconds: the same seed breaks the same things at the same
point of the same workload, on a slow machine as on a fast one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What can be done to the system."""

    KILL_WORKER = "kill_worker"
    STOP_WORKER = "stop_worker"
    TERM_WORKER = "term_worker"
    KILL_SERVICE = "kill_service"
    KILL_BROKER = "kill_broker"
    FREEZE_BROKER = "freeze_broker"
    FAILOVER = "failover"
    CLIENT_KILL = "client_kill"
    DROP_REPLIES = "drop_replies"
    CUT = "cut"
    SLOW = "slow"
    SCRIPT_FLUSH = "script_flush"
    FUNCTION_FLUSH = "function_flush"
    CLOCK_JUMP = "clock_jump"
    PAUSE = "pause"


#: Kind -> what is done; docs/research/chaos.md prints it.
WHAT = {
    Kind.KILL_WORKER: "kill -9 of a worker; it is started again, as all that end are",
    Kind.STOP_WORKER: "SIGSTOP of a worker until its leases are long over, then SIGCONT",
    Kind.TERM_WORKER: "SIGTERM to a worker: it hands its jobs back",
    Kind.KILL_SERVICE: "kill -9 of a queue service",
    Kind.KILL_BROKER: "kill -9 of the primary, which starts again from its append-only file",
    Kind.FREEZE_BROKER: "SIGSTOP of the primary for up to 2.5 s",
    Kind.FAILOVER: "the replica lags, catches up behind closed doors, and becomes the primary; "
    "with `--durability replica` the primary is killed in the middle of the lag instead",
    Kind.CLIENT_KILL: "the primary closes every connection, those that block too",
    Kind.DROP_REPLIES: "up to 45 requests arrive, and their connections are cut before the reply",
    Kind.CUT: "every connection is cut, and for up to 1 s nobody gets through",
    Kind.SLOW: "for 2 s all that passes between the processes and the primary is late",
    Kind.SCRIPT_FLUSH: "the primary forgets all scripts",
    Kind.FUNCTION_FLUSH: "the primary forgets all functions",
    Kind.CLOCK_JUMP: "the clock of a worker and that of a service are an hour off from now on",
    Kind.PAUSE: "not a fault, but as rude: the queue is paused for up to 2 s, in full swing",
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that will be done, once `at` jobs have been handed in.

    `aim` in [0, 1) picks the victim, `force` in [0, 1) how hard it is hit.
    """

    at: int
    kind: Kind
    aim: float
    force: float


#: From so many jobs on a run has so many faults of every kind, unless it is told otherwise.
LONG_RUN, OF_EVERY_KIND = 20_000, 50


def plan(
    seed: int, jobs: int, kinds: Sequence[Kind] = tuple(Kind), per_kind: int | None = None
) -> list[Fault]:
    """The faults of a run, in the order of `at`; kinds come in shuffled rounds.

    Args:
        seed: What all of it follows from.
        jobs: How many will be handed in.
        kinds: Which faults.
        per_kind: How many of each. None: `OF_EVERY_KIND` in a run of `LONG_RUN` jobs or more, in a
            shorter one a fault in 250 jobs, but every kind once as soon as there are jobs for it.
    """
    dice = random.Random(f"nemesis {seed}")  # noqa: S311 - must repeat
    if per_kind is None and jobs >= LONG_RUN:
        per_kind = OF_EVERY_KIND
    if per_kind is not None:
        count = per_kind * len(kinds)
    else:
        count = max(min(len(kinds), jobs // 40), jobs // 250)
    order: list[Kind] = []
    while len(order) < count:
        order += dice.sample(kinds, len(kinds))
    return [
        Fault(
            at=int(jobs * (i + dice.uniform(0.2, 0.8)) / count),
            kind=order[i],
            aim=dice.random(),
            force=dice.random(),
        )
        for i in range(count)
    ]
