"""SSJF's simulator is reproduced to the last float: completions, draws and defects."""

from __future__ import annotations

import numpy as np
import pytest

from lengthwise_lab.reproductions.ssjf.jobs import (
    ClassedLengths,
    LegacyArrivals,
    LegacyDraws,
    duration_s,
)
from lengthwise_lab.reproductions.ssjf.legacy import (
    LegacyBatching,
    LegacyCompletion,
    LegacyJob,
    Order,
    figures,
    simulate,
)

A = ((0, 2), (1, 3), (2, 1), (3, 2))
B = ((0, 5), (0, 1), (1, 2), (1, 8), (2, 1), (30, 4))

ONE, TWO, TWO_DYNAMIC = (
    LegacyBatching(size=1),
    LegacyBatching(size=2),
    LegacyBatching(size=2, dynamic=True),
)
TWO_AT_ONCE = LegacyBatching(size=2, wait_s=0)
TWO_DYNAMIC_AT_ONCE = LegacyBatching(size=2, wait_s=0, dynamic=True)
FCFS, SJF = Order.FCFS, Order.ORACLE

#: The output of the original program: job -> completion, s.
GOLDEN = [
    ("A", ONE, FCFS, {0: 2, 1: 5, 2: 6, 3: 8}),
    ("A", ONE, SJF, {0: 2, 2: 3, 3: 5, 1: 8}),
    ("B", ONE, FCFS, {0: 5, 1: 6, 2: 8, 3: 16, 4: 17, 5: 34}),
    ("B", ONE, SJF, {1: 1, 2: 3, 4: 4, 0: 9, 3: 17}),
    ("A", TWO, FCFS, {0: 4, 1: 4, 2: 6, 3: 6}),
    ("A", TWO, SJF, {0: 2, 2: 5, 1: 5, 3: 7}),
    ("A", TWO_DYNAMIC, FCFS, {0: 3, 1: 4, 2: 4, 3: 16}),
    ("A", TWO_DYNAMIC, SJF, {0: 2, 2: 3, 3: 5, 1: 5}),
    ("B", TWO, FCFS, {0: 5, 1: 5, 2: 13, 3: 13, 4: 24, 5: 44}),
    ("B", TWO, SJF, {1: 5, 0: 5, 4: 7, 2: 7, 3: 15}),
    ("B", TWO_DYNAMIC, FCFS, {1: 1, 2: 3, 0: 5, 4: 6, 3: 21, 5: 44}),
    ("B", TWO_DYNAMIC, SJF, {1: 1, 2: 3, 4: 4, 0: 5, 3: 12}),
    ("A", TWO_DYNAMIC_AT_ONCE, FCFS, {0: 2, 2: 3, 1: 5, 3: 5}),
    ("B", TWO_AT_ONCE, FCFS, {0: 5, 1: 5, 2: 13, 3: 13, 4: 14, 5: 34}),
    ("B", TWO_DYNAMIC_AT_ONCE, FCFS, {1: 1, 2: 3, 0: 5, 4: 6, 3: 11, 5: 34}),
]


def jobs(which: str) -> list[LegacyJob]:
    rows = A if which == "A" else B
    return [LegacyJob(number, arrival, length) for number, (arrival, length) in enumerate(rows)]


@pytest.mark.parametrize(
    ("which", "batches", "order", "want"),
    GOLDEN,
    ids=[
        f"{which}-{batches.size}-{'dynamic' if batches.dynamic else 'static'}-"
        f"wait{batches.wait_s}-{order}"
        for which, batches, order, _ in GOLDEN
    ],
)
def test_completions_are_those_of_the_original(
    which: str, batches: LegacyBatching, order: Order, want: dict[int, float]
) -> None:
    got = simulate(jobs(which), order, batches)
    assert [(done.job.number, done.ended_s) for done in got] == list(want.items())


def test_the_last_job_never_runs_when_it_arrives_at_an_empty_queue() -> None:
    got = simulate(jobs("B"), SJF, ONE)
    assert 5 not in {done.job.number for done in got}
    assert figures(got).served == 5


def test_first_come_first_served_idles_the_whole_wait_for_a_job_that_is_alone() -> None:
    alone = [LegacyJob(0, 0, 1)]
    assert simulate(alone, FCFS, TWO)[0].ended_s == 11
    assert simulate(alone, FCFS, TWO_AT_ONCE)[0].ended_s == 1


def test_unfinished_jobs_go_back_to_the_front_in_reverse() -> None:
    # Jobs 1 and 2 are left after the first second, and job 2, put back last, is then in front.
    three = LegacyBatching(size=3, wait_s=0, dynamic=True)
    got = simulate([LegacyJob(0, 0, 1), LegacyJob(1, 0, 4), LegacyJob(2, 0, 4)], FCFS, three)
    assert [done.job.number for done in got] == [0, 2, 1]


def test_a_wait_of_more_than_a_hundred_seconds_puts_the_whole_queue_in_waiting_order() -> None:
    long = LegacyJob(0, 0, 150.0, predicted_s=1)
    first_in_queue = LegacyJob(1, 1, 40.0, predicted_s=9)
    second = LegacyJob(2, 2, 30.0, predicted_s=8)
    got = simulate([long, first_in_queue, second], Order.PREDICTED, ONE)
    assert [done.job.number for done in got] == [0, 1, 2]


def test_the_figures_count_throughput_at_the_first_quarter_of_completions() -> None:
    ends = [1.0, 2.0, 3.0, 4.0, 50.0, 60.0, 70.0, 80.0]
    done = [LegacyCompletion(LegacyJob(n, 0, 1), 0, end, 0) for n, end in enumerate(ends)]
    got = figures(done)
    assert got.early_per_s == 1 / 2
    assert got.whole_per_s == 8 / 80
    assert got.p99_s == pytest.approx(79.3)


LENGTHS = ClassedLengths(
    tokens=np.arange(2, 512, dtype=np.int64),
    classes={"five": np.arange(510, dtype=np.int64) // 102},
)


def test_draws_are_numpys_global_generator_seeded_with_42() -> None:
    draws = LegacyDraws(LENGTHS)
    got = draws.jobs(5, LegacyArrivals(kind="poisson", level=2))["five"]

    np.random.seed(42)
    counts = np.random.poisson(2, 2)
    while counts.sum() < 5:
        counts = np.append(counts, np.random.poisson(2, 2))
    rows = np.random.permutation(510)[:5]
    arrivals = [second for second, count in enumerate(counts) for _ in range(count)][:5]

    assert [job.arrival_s for job in got] == arrivals
    assert [job.duration_s for job in got] == [duration_s(int(row) + 2) for row in rows]
    assert [job.predicted_s for job in got] == [duration_s(int(row) // 102) for row in rows]


def test_the_generator_is_not_seeded_again_between_runs() -> None:
    draws = LegacyDraws(LENGTHS)
    first, second = (
        draws.jobs(9, LegacyArrivals(kind="poisson", level=2))["five"] for _ in range(2)
    )
    assert [job.duration_s for job in first] != [job.duration_s for job in second]


@pytest.mark.parametrize(
    "arrivals",
    [LegacyArrivals(kind="gamma", level=3), LegacyArrivals(kind="uniform", level=2)],
    ids=str,
)
def test_gaps_are_sorted_so_that_the_load_only_falls(arrivals: LegacyArrivals) -> None:
    got = LegacyDraws(LENGTHS).jobs(50, arrivals)["five"]
    gaps = np.diff([0, *(job.arrival_s for job in got)])
    assert (np.diff(gaps) >= -1e-9).all()


def test_a_trace_in_milliseconds_is_replayed_in_seconds() -> None:
    trace = LegacyArrivals(kind="trace", level=10, trace_ms=[1_000, 1_123, 1_300])
    got = LegacyDraws(LENGTHS).jobs(3, trace)["five"]
    assert [job.arrival_s for job in got] == [0.0, 12.3, 30.0]


def test_a_duration_is_a_tenth_and_two_hundredths_a_token_to_the_hundredth() -> None:
    assert duration_s(140) == 2.9
    assert duration_s(3) == 0.16
