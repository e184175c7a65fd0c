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
    ENGINE_500 = "engine_500"
    ENGINE_404 = "engine_404"
    ENGINE_OTHER_MODEL = "engine_other_model"
    ENGINE_HANG = "engine_hang"
    ENGINE_HANG_MIDWAY = "engine_hang_midway"
    ENGINE_GARBAGE = "engine_garbage"
    ENGINE_LUMPS = "engine_lumps"
    HALF_OPEN_WORKER = "half_open_worker"
    HALF_OPEN_SERVICE = "half_open_service"
    HALF_OPEN_ENGINE = "half_open_engine"
    HALF_OPEN_CLIENT = "half_open_client"
    SERVICE_SETTINGS = "service_settings"
    QUEUE_POLICY = "queue_policy"
    SETTINGS_RACE = "settings_race"
    LONG_OUTAGE = "long_outage"


#: The faults of an engine. One of a run's engines at most is sick at a time.
ENGINE_FAULTS = frozenset(kind for kind in FaultKind if kind.startswith("engine_"))


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
    FaultKind.ENGINE_500: "an engine answers every request with a 500, for up to 4 s",
    FaultKind.ENGINE_404: "an engine answers every request with a 404, though it lists the model",
    FaultKind.ENGINE_OTHER_MODEL: "an engine lists and serves a model of another name",
    FaultKind.ENGINE_HANG: "an engine accepts requests and sends nothing, for up to 7 s; then it "
    "breaks them off, or hangs on until they are closed",
    FaultKind.ENGINE_HANG_MIDWAY: "as `engine_hang`, after half of each answer",
    FaultKind.ENGINE_GARBAGE: "an engine answers 200 with HTML, bytes, other JSON, nothing, or "
    "half of an answer",
    FaultKind.ENGINE_LUMPS: "an engine sends whole answers in one write, the first behind 9,000 "
    "events without text, or in writes of 7 bytes",
    FaultKind.HALF_OPEN_WORKER: "the connections of a worker to Redis forward nothing more, or "
    "nothing in one direction, and stay open; new ones work",
    FaultKind.HALF_OPEN_SERVICE: "the same for a queue service and Redis",
    FaultKind.HALF_OPEN_ENGINE: "the same for a worker and its engine",
    FaultKind.HALF_OPEN_CLIENT: "the same for the clients of a queue service",
    FaultKind.SERVICE_SETTINGS: "a queue service is restarted, gently or not, with other settings: "
    "a lower body limit, no predictor, short leases and windows of batches, no grace",
    FaultKind.QUEUE_POLICY: "the queue is served by another policy, for up to 2 s",
    FaultKind.SETTINGS_RACE: "all settings writers write at once, one of them all settings, while "
    "a worker restarts and publishes what it knows",
    FaultKind.LONG_OUTAGE: "Redis is away for longer than a waiting client waits for it (60 s), "
    "once in a run of 20,000 jobs or more",
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


#: The kinds of a plan, unless it names others. `LONG_OUTAGE` takes over a minute, and is added once
#: to a long run.
USUAL_KINDS = tuple(kind for kind in FaultKind if kind is not FaultKind.LONG_OUTAGE)

#: A run of at least this many jobs has this many faults of every kind by default, ...
LONG_RUN, OF_EVERY_KIND = 20_000, 30

#: ... and a longer one has one of every kind for so many jobs.
JOBS_PER_ROUND = 2_500


def plan(
    seed: int, jobs: int, kinds: Sequence[FaultKind] = USUAL_KINDS, per_kind: int | None = None
) -> list[Fault]:
    """Make the faults of a run, in the order of `at`. Kinds come in shuffled rounds.

    Args:
        seed: Seed of the plan.
        jobs: Number of jobs of the run.
        kinds: Kinds of faults.
        per_kind: Faults of each kind. None: `OF_EVERY_KIND` in a run of `LONG_RUN` jobs or more,
            and a round of all kinds in `JOBS_PER_ROUND` jobs in a longer one; in a shorter one a
            fault in 250 jobs, but every kind once if there are 40 jobs for each.
    """
    rng = random.Random(f"nemesis {seed}")  # noqa: S311 - must repeat
    if per_kind is None and jobs >= LONG_RUN:
        per_kind = max(OF_EVERY_KIND, jobs // JOBS_PER_ROUND)
    if per_kind is not None:
        count = per_kind * len(kinds)
    else:
        count = max(min(len(kinds), jobs // 40), jobs // 250)
    order: list[FaultKind] = []
    while len(order) < count:
        order += rng.sample(kinds, len(kinds))
    order = order[:count]
    if tuple(kinds) == USUAL_KINDS and jobs >= LONG_RUN:
        order.insert(count // 2, FaultKind.LONG_OUTAGE)
    return [
        Fault(
            at=int(jobs * (i + rng.uniform(0.2, 0.8)) / len(order)),
            kind=kind,
            aim=rng.random(),
            force=rng.random(),
        )
        for i, kind in enumerate(order)
    ]
