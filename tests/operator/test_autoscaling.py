from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise_operator.autoscaling import (
    TOLERANCE,
    Bounds,
    Demand,
    ReplicaSample,
    ScalingDecision,
    ScalingReason,
    decide_replicas,
    needed_replicas,
)

BOUNDS = Bounds(
    min_replicas=0, max_replicas=4, target_backlog_s=30, scale_down_delay_s=300, slots=8
)
IDLE = Demand(depth=0, in_flight=0, backlog_s=0)


def work(seconds: float, *, depth: int = 10, in_flight: int = 0) -> Demand:
    return Demand(depth=depth, in_flight=in_flight, backlog_s=seconds)


def run(
    demands: list[Demand | None], *, current: int = 1, bounds: Bounds = BOUNDS, every_s: float = 5
) -> list[ScalingDecision]:
    """Make decisions one after the other, each with the history of the last."""
    history: tuple[ReplicaSample, ...] = ()
    out = []
    for i, demand in enumerate(demands):
        decision = decide_replicas(i * every_s, current, history, demand, bounds)
        current, history = decision.replicas, decision.history
        out.append(decision)
    return out


def test_the_first_job_wakes_a_replica_at_once() -> None:
    decision = run([work(0.1, depth=1)], current=0)[0]
    assert (decision.replicas, decision.reason) == (1, ScalingReason.WOKEN)


def test_a_backlog_over_the_target_adds_as_many_replicas_as_meet_it() -> None:
    decision = run([work(100)])[0]
    assert (decision.replicas, decision.reason) == (4, ScalingReason.BACKLOG)
    assert "100.0 s of predicted work" in decision.message
    assert "target 30 s" in decision.message


def test_a_backlog_that_fluctuates_around_the_target_changes_nothing() -> None:
    demands: list[Demand | None] = [work(60 * f) for f in (0.95, 1.05, 0.98, 1.09, 0.96) * 20]
    assert {d.replicas for d in run(demands, current=2)} == {2}


def test_ten_long_jobs_scale_further_than_ten_short_ones() -> None:
    short, long = run([work(5)])[0], run([work(500)])[0]
    assert short.replicas < long.replicas


def test_the_maximum_is_never_exceeded_and_is_named() -> None:
    decision = run([work(10_000)])[0]
    assert decision.replicas == 4
    assert "the maximum" in decision.message


def test_a_replica_is_removed_only_after_the_whole_delay() -> None:
    decisions = run([work(100, in_flight=0), *[IDLE] * 70])
    changed = [i for i, d in enumerate(decisions) if i and d.replicas != decisions[i - 1].replicas]
    assert changed == [61]  # the first idle decision was 300 s earlier; one decision every 5 s
    assert decisions[-1].reason is ScalingReason.STEADY
    assert decisions[61].reason is ScalingReason.IDLE


def test_scaling_down_stops_at_the_most_that_was_needed_within_the_delay() -> None:
    demands: list[Demand | None] = [work(115), *[work(50)] * 30, *[work(5)] * 40]
    decisions = run(demands)
    assert decisions[62].replicas == 2


def test_running_jobs_keep_the_replicas_that_hold_them() -> None:
    decisions = run([work(115), *[Demand(depth=0, in_flight=17, backlog_s=0)] * 100])
    assert decisions[-1].replicas == 3  # 17 jobs, 8 slots each


def test_nothing_changes_while_the_demand_is_unknown() -> None:
    decisions = run([None] * 100, current=3)
    assert {d.replicas for d in decisions} == {3}
    assert decisions[-1].reason is ScalingReason.NO_SIGNAL


def test_an_unknown_demand_restarts_the_delay() -> None:
    demands = [*[IDLE] * 40, None, *[IDLE] * 59]
    assert {d.replicas for d in run(demands, current=2)} == {2}


def test_a_restarted_operator_scales_nothing_down_before_the_delay_is_over() -> None:
    decision = decide_replicas(1e6, 4, (), IDLE, BOUNDS)
    assert (decision.replicas, decision.reason) == (4, ScalingReason.STABILIZING)


def test_changed_bounds_take_effect_at_once() -> None:
    decision = decide_replicas(0, 9, (), IDLE, BOUNDS)
    assert (decision.replicas, decision.reason) == (4, ScalingReason.BOUNDS)


def test_without_a_delay_the_replicas_follow_the_work_at_once() -> None:
    bounds = replace(BOUNDS, scale_down_delay_s=0)
    assert [d.replicas for d in run([work(100), IDLE], bounds=bounds)] == [4, 0]


@pytest.mark.parametrize("current", [0, 1, 3])
def test_replicas_that_still_load_are_not_requested_twice(current: int) -> None:
    assert needed_replicas(current, work(100), BOUNDS) == 4


demands = st.one_of(
    st.none(),
    st.builds(
        Demand,
        depth=st.integers(0, 500),
        in_flight=st.integers(0, 64),
        backlog_s=st.floats(0, 1000),
    ),
)
bounds = st.builds(
    lambda low, more, target, delay, slots: Bounds(
        min_replicas=low,
        max_replicas=max(1, low + more),
        target_backlog_s=target,
        scale_down_delay_s=delay,
        slots=slots,
    ),
    st.integers(0, 4),
    st.integers(0, 8),
    st.floats(1, 120),
    st.sampled_from([0.0, 7.0, 30.0, 100.0]),
    st.integers(1, 64),
)


@settings(deadline=None)
@given(st.lists(demands, min_size=1, max_size=40), st.integers(0, 20), bounds)
def test_the_number_is_always_within_the_bounds(
    seen: list[Demand | None], current: int, limits: Bounds
) -> None:
    for decision in run(seen, current=current, bounds=limits):
        assert limits.min_replicas <= decision.replicas <= limits.max_replicas


@settings(deadline=None)
@given(st.lists(demands, min_size=1, max_size=40), st.integers(0, 20), bounds)
def test_there_is_a_replica_whenever_there_is_work(
    seen: list[Demand | None], current: int, limits: Bounds
) -> None:
    for demand, decision in zip(seen, run(seen, current=current, bounds=limits), strict=True):
        if demand is not None and (demand.depth or demand.in_flight):
            assert decision.replicas >= 1


@settings(deadline=None)
@given(st.lists(demands, min_size=2, max_size=60), bounds)
def test_no_replica_is_removed_that_was_needed_within_the_delay(
    seen: list[Demand | None], limits: Bounds
) -> None:
    # The guarantee against flapping: a decision to scale up is never reverted within the delay.
    every_s = 5.0
    decisions = run(seen, current=limits.min_replicas, bounds=limits, every_s=every_s)
    for i in range(1, len(decisions)):
        if decisions[i].replicas >= decisions[i - 1].replicas:
            continue
        window = math.ceil(limits.scale_down_delay_s / every_s)
        ups = [
            j
            for j in range(max(1, i - window + 1), i)
            if decisions[j].replicas > decisions[j - 1].replicas
        ]
        assert not ups


@settings(deadline=None)
@given(demands, st.integers(0, 12), bounds)
def test_steady_demand_causes_at_most_one_change(
    demand: Demand | None, current: int, limits: Bounds
) -> None:
    decisions = run([demand] * 60, current=current, bounds=limits)
    numbers = [d.replicas for d in decisions]
    changes = sum(a != b for a, b in itertools.pairwise(numbers))
    assert changes <= 1


@settings(deadline=None)
@given(st.integers(0, 12), st.floats(0, 1000), st.floats(0, 1000), st.integers(1, 64), bounds)
def test_more_work_never_needs_fewer_replicas(
    current: int, less: float, more: float, in_flight: int, limits: Bounds
) -> None:
    less, more = sorted((less, more))
    few, many = (
        needed_replicas(current, work(seconds, in_flight=in_flight), limits)
        for seconds in (less, more)
    )
    assert few <= many


@settings(deadline=None)
@given(st.floats(1, 1000), bounds)
def test_the_needed_replicas_meet_the_target_within_the_tolerance(
    seconds: float, limits: Bounds
) -> None:
    replicas = needed_replicas(1, work(seconds), limits)
    if replicas < limits.max_replicas:
        assert seconds / replicas <= limits.target_backlog_s * (1 + TOLERANCE) + 1e-6


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(demands, min_size=1, max_size=200))
def test_the_history_does_not_grow_beyond_the_delay(seen: list[Demand | None]) -> None:
    for decision in run(seen, bounds=replace(BOUNDS, scale_down_delay_s=30)):
        assert len(decision.history) <= 30 / 5 + 2
