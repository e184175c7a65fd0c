"""How many replicas: from the predicted work that waits, without flapping. Pure.

The work is measured in replica-seconds, what one replica would need for everything in line, so the
answer does not depend on how many replicas there happen to be: one that is still loading its model
is not asked for twice. Up goes at once, when the work is more than 10 % over the target; down
goes only to the largest number that was needed at any time within the delay, as Kubernetes' own
autoscaler does with its stabilization window. A gap in what is known counts as "all were needed".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

#: Work over the target by less than this changes nothing: measurements of speed tremble.
TOLERANCE = 0.1


class ScalingReason(StrEnum):
    """Why this number."""

    STEADY = "Steady"  #: It is what is needed.
    WOKEN = "WokenByJob"  #: A job came while there was no replica.
    BACKLOG = "BacklogAboveTarget"  #: The waiting work would take longer than the target.
    BOUNDS = "BoundsChanged"  #: minReplicas or maxReplicas leave no other number.
    LESS_WORK = "LessWork"  #: Fewer sufficed for the whole delay.
    IDLE = "Idle"  #: No work for the whole delay.
    STABILIZING = "Stabilizing"  #: Fewer would do, but not for long enough yet.
    NO_SIGNAL = "NoSignal"  #: The queue service does not say; the number stays.


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What the queue says.

    Attributes:
        depth: Jobs waiting.
        in_flight: Jobs being answered.
        work_s: What one replica would need for the waiting jobs, s.
    """

    depth: int
    in_flight: int
    work_s: float


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """From `spec.autoscaling`, and the jobs that one replica holds at once."""

    min_replicas: int
    max_replicas: int
    target_backlog_s: float
    scale_down_delay_s: float
    slots: int


@dataclass(frozen=True)
class Sample:
    """At `at_s` (any monotonic clock, s), `needed` replicas were needed."""

    at_s: float
    needed: int


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How many replicas, and why.

    Attributes:
        replicas: Wanted from now on.
        reason: In one word.
        message: For people, with the numbers.
        history: What the next decision is to be given.
    """

    replicas: int
    reason: ScalingReason
    message: str
    history: tuple[Sample, ...]


def needed_replicas(current: int, demand: Demand, bounds: Bounds) -> int:
    """What the work alone asks for, within the bounds and a dead band around `current`."""
    by_work = demand.work_s / bounds.target_backlog_s
    # The running jobs must fit into what is left, or scaling down would throw them back.
    floor = max(
        math.ceil(demand.in_flight / bounds.slots), 1 if demand.depth or demand.in_flight else 0
    )
    least, full = math.ceil(by_work / (1 + TOLERANCE)), math.ceil(by_work)
    needed = max(current if least <= current < full else full, floor)
    return min(max(needed, bounds.min_replicas), bounds.max_replicas)


def decide_replicas(
    now_s: float,
    current: int,
    history: Sequence[Sample],
    demand: Demand | None,
    bounds: Bounds,
) -> Decision:
    """The number of replicas from now on.

    Args:
        now_s: Same clock as the history's, s; never goes back.
        current: Replicas wanted until now.
        history: That of the last decision; empty after a restart, which starts the delay anew.
        demand: What the queue says now; None: nobody knows.
        bounds: See there.
    """
    held = min(max(current, bounds.min_replicas), bounds.max_replicas)
    needed = held if demand is None else needed_replicas(held, demand, bounds)
    samples = _within([*history, Sample(now_s, needed)], now_s - bounds.scale_down_delay_s)
    covered = now_s - samples[0].at_s >= bounds.scale_down_delay_s
    most = max(sample.needed for sample in samples)
    if held != current:
        target, reason = held, ScalingReason.BOUNDS
    elif demand is None:
        target, reason = current, ScalingReason.NO_SIGNAL
    elif needed > current:
        target = needed
        reason = ScalingReason.BACKLOG if current else ScalingReason.WOKEN
    elif needed == current:
        target, reason = current, ScalingReason.STEADY
    elif not covered or most >= current:
        target, reason = current, ScalingReason.STABILIZING
    else:
        target = most
        reason = ScalingReason.LESS_WORK if most else ScalingReason.IDLE
    return Decision(
        replicas=target,
        reason=reason,
        message=_explain(reason, current, target, needed, demand, bounds),
        history=samples,
    )


def _within(history: Sequence[Sample], since_s: float) -> tuple[Sample, ...]:
    """The samples since then, and the last one before, which was in force at that time."""
    before = [sample for sample in history if sample.at_s <= since_s]
    return (*before[-1:], *(sample for sample in history if sample.at_s > since_s))


def _explain(
    reason: ScalingReason,
    current: int,
    target: int,
    needed: int,
    demand: Demand | None,
    bounds: Bounds,
) -> str:
    change = f"{current} -> {target} replicas" if target != current else f"{current} replicas"
    if demand is None:
        return f"{change}: the queue service gives no numbers, so nothing changes"
    state = (
        f"{demand.depth} jobs wait, {demand.work_s:.1f} s of predicted work for one replica; "
        f"target {bounds.target_backlog_s:g} s; {demand.in_flight} running, {bounds.slots} slots "
        "each"
    )
    more = {
        ScalingReason.BOUNDS: f"within {bounds.min_replicas} to {bounds.max_replicas}. ",
        ScalingReason.STABILIZING: f"{needed} would do, for {bounds.scale_down_delay_s:g} s. ",
        ScalingReason.LESS_WORK: f"enough for {bounds.scale_down_delay_s:g} s. ",
        ScalingReason.IDLE: f"no work for {bounds.scale_down_delay_s:g} s. ",
    }.get(reason, "")
    capped = " (the most allowed)" if target == bounds.max_replicas and target > current else ""
    return f"{change}{capped}: {more}{state}"
