"""Choose the number of replicas from the predicted backlog, without flapping. Pure.

The backlog is measured in replica-seconds: the time that one replica would need for all waiting
jobs. It does not depend on how many replicas there are, so a replica that still loads its model is
not requested twice. Scaling up is immediate, when the backlog is more than 10 % over the target.
Scaling down stops at the largest number needed within the delay, like the stabilization window of
Kubernetes' own autoscaler. While the demand is unknown, all
present replicas count as needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

#: A backlog that exceeds the target by less than this share changes nothing, because the measured
#: speed fluctuates.
TOLERANCE = 0.1


class ScalingReason(StrEnum):
    """The reason for a number of replicas."""

    STEADY = "Steady"  #: The number is what is needed.
    WOKEN = "WokenByJob"  #: A job arrived while there was no replica.
    BACKLOG = "BacklogAboveTarget"  #: The backlog would take longer than the target.
    BOUNDS = "BoundsChanged"  #: minReplicas or maxReplicas changed.
    LESS_WORK = "LessWork"  #: Fewer were enough for the whole delay.
    IDLE = "Idle"  #: There was no work for the whole delay.
    STABILIZING = "Stabilizing"  #: Fewer are enough now, but not for the whole delay.
    NO_SIGNAL = "NoSignal"  #: The queue service reports no numbers.


@dataclass(frozen=True, kw_only=True)
class Demand:
    """The work in one queue.

    Attributes:
        depth: Jobs that wait.
        in_flight: Jobs that are being answered.
        backlog_s: Time that one replica would need for the waiting jobs, s.
    """

    depth: int
    in_flight: int
    backlog_s: float


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Limits from `spec.autoscaling`, and the jobs that one replica holds at once (`slots`)."""

    min_replicas: int
    max_replicas: int
    target_backlog_s: float
    scale_down_delay_s: float
    slots: int


@dataclass(frozen=True)
class ReplicaSample:
    """At `at_s` (any monotonic clock, s), `needed` replicas were needed."""

    at_s: float
    needed: int


@dataclass(frozen=True, kw_only=True)
class ScalingDecision:
    """The number of replicas, with its reason.

    Attributes:
        replicas: Desired number from now on.
        reason: Reason in one word.
        message: Reason with the numbers, for people.
        history: Input of the next decision.
    """

    replicas: int
    reason: ScalingReason
    message: str
    history: tuple[ReplicaSample, ...]


def needed_replicas(current: int, demand: Demand, bounds: Bounds) -> int:
    """Return the replicas that the demand needs, within the bounds; near the target, `current`."""
    by_backlog = demand.backlog_s / bounds.target_backlog_s
    # The running jobs must fit into the remaining replicas, or scaling down would interrupt them.
    floor = max(
        math.ceil(demand.in_flight / bounds.slots), 1 if demand.depth or demand.in_flight else 0
    )
    least, full = math.ceil(by_backlog / (1 + TOLERANCE)), math.ceil(by_backlog)
    needed = max(current if least <= current < full else full, floor)
    return min(max(needed, bounds.min_replicas), bounds.max_replicas)


def decide_replicas(
    now_s: float,
    current: int,
    history: Sequence[ReplicaSample],
    demand: Demand | None,
    bounds: Bounds,
) -> ScalingDecision:
    """Decide the number of replicas.

    Args:
        now_s: Time on the clock of the history, s; monotonic.
        current: Replicas desired until now.
        history: History of the last decision; empty after a restart, which restarts the delay.
        demand: The work in the queue now; None: unknown.
        bounds: Limits and slots.
    """
    held = min(max(current, bounds.min_replicas), bounds.max_replicas)
    needed = held if demand is None else needed_replicas(held, demand, bounds)
    samples = _within([*history, ReplicaSample(now_s, needed)], now_s - bounds.scale_down_delay_s)
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
    return ScalingDecision(
        replicas=target,
        reason=reason,
        message=_explain(reason, current, target, needed, demand, bounds),
        history=samples,
    )


def _within(history: Sequence[ReplicaSample], since_s: float) -> tuple[ReplicaSample, ...]:
    """Keep the samples since then, and the last one before, which was in force at that time."""
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
        return f"{change}: the queue service reports no numbers, so the number stays"
    state = (
        f"{demand.depth} jobs wait, {demand.backlog_s:.1f} s of predicted work for one replica; "
        f"target {bounds.target_backlog_s:g} s; {demand.in_flight} running, {bounds.slots} slots "
        "per replica"
    )
    delay_s = bounds.scale_down_delay_s
    more = {
        ScalingReason.BOUNDS: f"within {bounds.min_replicas} to {bounds.max_replicas}. ",
        ScalingReason.STABILIZING: f"{needed} must be enough for {delay_s:g} s first. ",
        ScalingReason.LESS_WORK: f"enough for the last {delay_s:g} s. ",
        ScalingReason.IDLE: f"no work for the last {delay_s:g} s. ",
    }.get(reason, "")
    capped = " (the maximum)" if target == bounds.max_replicas and target > current else ""
    return f"{change}{capped}: {more}{state}"
