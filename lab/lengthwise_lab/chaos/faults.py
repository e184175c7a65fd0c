"""The plan of faults, which follows from the seed. Pure. nemesis.py carries it out.

The plan counts submitted jobs and not seconds, so that the same seed breaks the same things at the
same point of the same workload, on a slow machine as on a fast one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """The kinds of faults."""

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


#: Kind of fault -> its description. docs/research/chaos.md prints it.
DESCRIPTIONS = {
    FaultKind.KILL_WORKER: "kill -9 of a worker; like every process that ends, it is restarted",
    FaultKind.STOP_WORKER: "SIGSTOP of a worker until long after its leases expire, then SIGCONT",
    FaultKind.TERM_WORKER: "SIGTERM to a worker, which returns its jobs to the queue",
    FaultKind.KILL_SERVICE: "kill -9 of a queue service",
    FaultKind.KILL_BROKER: "kill -9 of the primary, which restarts from its append-only file",
    FaultKind.FREEZE_BROKER: "SIGSTOP of the primary for up to 2.5 s",
    FaultKind.FAILOVER: "the replica lags, catches up while all connections are blocked, and "
    "becomes the primary; with `--durability replica` the primary is killed during the lag instead",
    FaultKind.CLIENT_KILL: "the primary closes every connection, blocking ones included",
    FaultKind.DROP_REPLIES: "up to 45 requests arrive, and their connections are cut before the "
    "reply",
    FaultKind.CUT: "every connection is cut, and new ones are refused for up to 1 s",
    FaultKind.SLOW: "for 2 s all traffic between the processes and the primary is delayed",
    FaultKind.SCRIPT_FLUSH: "the primary drops all scripts",
    FaultKind.FUNCTION_FLUSH: "the primary drops all functions",
    FaultKind.CLOCK_JUMP: "the clocks of a worker and of a service jump by an hour",
    FaultKind.PAUSE: "no fault, but as disruptive: the queue is paused for up to 2 s under load",
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault of a plan. It is due when `at` jobs are submitted.

    `aim` in [0, 1) selects the target, `force` in [0, 1) the strength.
    """

    at: int
    kind: FaultKind
    aim: float
    force: float


#: A run of at least this many jobs has this many faults of every kind by default.
LONG_RUN, OF_EVERY_KIND = 20_000, 50


def plan(
    seed: int, jobs: int, kinds: Sequence[FaultKind] = tuple(FaultKind), per_kind: int | None = None
) -> list[Fault]:
    """Make the faults of a run, in the order of `at`. Kinds come in shuffled rounds.

    Args:
        seed: Seed of the plan.
        jobs: Number of jobs of the run.
        kinds: Kinds of faults.
        per_kind: Faults of each kind. None: `OF_EVERY_KIND` in a run of `LONG_RUN` jobs or more; in
            a shorter one a fault in 250 jobs, but every kind once if there are 40 jobs for each.
    """
    rng = random.Random(f"nemesis {seed}")  # noqa: S311 - must repeat
    if per_kind is None and jobs >= LONG_RUN:
        per_kind = OF_EVERY_KIND
    if per_kind is not None:
        count = per_kind * len(kinds)
    else:
        count = max(min(len(kinds), jobs // 40), jobs // 250)
    order: list[FaultKind] = []
    while len(order) < count:
        order += rng.sample(kinds, len(kinds))
    return [
        Fault(
            at=int(jobs * (i + rng.uniform(0.2, 0.8)) / count),
            kind=order[i],
            aim=rng.random(),
            force=rng.random(),
        )
        for i in range(count)
    ]
