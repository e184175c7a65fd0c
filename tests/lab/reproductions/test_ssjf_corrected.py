"""The workloads of SSJF's simulator, served without its defects."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_lab.reproductions.recorded_lengths import azure_ms, classified
from lengthwise_lab.reproductions.ssjf.corrected import figures_of, serve
from lengthwise_lab.reproductions.ssjf.legacy import LegacyBatching
from lengthwise_lab.reproductions.ssjf.queues import (
    AgedQueue,
    DueTimeQueue,
    KeyQueue,
    PredictorStats,
    due_times_s,
)
from lengthwise_lab.reproductions.ssjf.steady_load import run
from lengthwise_lab.reproductions.ssjf.sweeps import corrected, legacy

ARRIVALS, DURATIONS = [0, 0, 1, 1, 2, 30], [5, 1, 2, 8, 1, 4]


def test_the_last_job_is_served() -> None:
    ends = serve(ARRIVALS, DURATIONS, KeyQueue(DURATIONS), slots=1).ends_s
    assert ends == [9, 1, 3, 17, 4, 34]


def test_first_come_first_served_does_not_idle() -> None:
    ends = serve(ARRIVALS, DURATIONS, KeyQueue(ARRIVALS), slots=2, static=True).ends_s
    assert ends == [5, 5, 13, 13, 14, 34]


def test_a_job_starts_as_soon_as_a_slot_is_free() -> None:
    ends = serve(ARRIVALS, DURATIONS, KeyQueue(ARRIVALS), slots=2).ends_s
    assert ends == [5, 1, 3, 11, 6, 34]


jobs = st.lists(st.tuples(st.floats(0, 50), st.floats(0.1, 20)), min_size=1, max_size=30).map(
    lambda rows: sorted(rows)
)


@given(jobs, st.integers(1, 4), st.booleans())
def test_every_job_runs_once_and_never_more_jobs_than_slots_at_once(
    rows: list[tuple[float, float]], slots: int, static: bool
) -> None:
    arrivals, durations = [row[0] for row in rows], [row[1] for row in rows]
    ends = serve(arrivals, durations, KeyQueue(durations), slots=slots, static=static).ends_s
    assert all(
        end >= arrival + duration - 1e-9
        for arrival, duration, end in zip(arrivals, durations, ends, strict=True)
    )
    if static:
        # All of a batch ends at once, and no batch is larger than the slots.
        assert max(ends.count(end) for end in ends) <= slots or 0 in durations
    else:
        starts = [end - duration for end, duration in zip(ends, durations, strict=True)]
        for instant in starts:
            running = sum(
                start <= instant + 1e-9 and instant + 1e-6 < end
                for start, end in zip(starts, ends, strict=True)
            )
            assert running <= slots


@given(jobs)
def test_no_job_is_overtaken_by_one_that_arrived_more_than_k_times_its_length_later(
    rows: list[tuple[float, float]],
) -> None:
    arrivals, durations = [row[0] for row in rows], [row[1] for row in rows]
    ends = serve(arrivals, durations, KeyQueue(due_times_s(arrivals, durations)), slots=1).ends_s
    served_in = sorted(range(len(rows)), key=lambda job: ends[job])
    for place, job in enumerate(served_in):
        for overtaker in served_in[:place]:
            assert arrivals[overtaker] <= arrivals[job] + 3 * durations[job] + 1e-6


KNOWN = PredictorStats(usual_s=1.0, credit=1.6)


@given(jobs, st.integers(1, 4))
def test_our_queue_lets_no_job_be_overtaken_beyond_its_bound(
    rows: list[tuple[float, float]], slots: int
) -> None:
    arrivals, durations = [row[0] for row in rows], [row[1] for row in rows]
    starts = serve(
        arrivals,
        durations,
        DueTimeQueue(arrivals, durations, slots=slots, stats=KNOWN),
        slots=slots,
    ).starts_s
    for job, arrival in enumerate(arrivals):
        # The jobs that waited when it arrived; if some of them run by then, the bound is smaller.
        waiting = [
            other for other in range(job) if starts[other] >= arrival and arrivals[other] <= arrival
        ]
        backlog_s = sum(durations[other] for other in waiting)
        bound = max(3 * durations[job], KNOWN.credit * backlog_s / slots)
        for other in range(job + 1, len(rows)):
            if starts[other] < starts[job]:
                assert arrivals[other] <= arrival + bound + 1e-6


def test_our_queue_is_k_alone_when_empty_and_delays_long_jobs_when_full() -> None:
    arrivals_s, predicted_s = [0.0, 0.0, 0.0, 4.0], [9.0, 9.0, 4.0, 0.5]
    queue = DueTimeQueue(arrivals_s, predicted_s, slots=1, stats=KNOWN, factor=3)
    for job in range(4):
        queue.push(job)
    # Job 2 is due at 12 s by k alone, and job 3 at 5.5 s; 18 s of work put job 2 behind job 1.
    assert [queue.pop(4.0) for _ in range(4)] == [3, 0, 1, 2]
    no_credit = replace(KNOWN, credit=0.0)
    alone = DueTimeQueue(arrivals_s, predicted_s, slots=1, stats=no_credit, factor=3)
    for job in range(4):
        alone.push(job)
    assert [alone.pop(4.0) for _ in range(4)] == [3, 2, 0, 1]


def test_a_predictor_with_too_few_answers_earns_no_wait_credit() -> None:
    assert PredictorStats.of([1.0, 2.0], [10, 20]).credit == 0.0
    right = PredictorStats.of([float(n) for n in range(1, 200)], list(range(1, 200)))
    assert right.credit == pytest.approx(2.0)


def test_a_starved_job_is_judged_by_its_own_wait_and_its_predicted_length() -> None:
    # Job 0 is predicted at 1 s, so it starves after 10 s. Jobs 1 and 2
    # arrived later with shorter predictions.
    queue = AgedQueue([0, 11, 12], [1, 0.5, 0.2])
    for job in range(3):
        queue.push(job)
    assert [queue.pop(9.9)] == [2]
    assert [queue.pop(10.1), queue.pop(10.1)] == [0, 1]
    assert len(queue) == 0


def test_figures_leave_no_job_out() -> None:
    got = figures_of([0, 0, 0, 0], [4, 1, 2, 3], [10, 1, 3, 6])
    assert (got.mean_s, got.max_s, got.whole_per_s) == (5, 10, 4 / 10)
    assert got.quarters_s == (1, 3, 6, 10)


def test_prediction_helps_the_mean_and_our_bound_keeps_the_worst_wait() -> None:
    got = run(classified(None), slots=8, load=0.9)
    assert got["oracle"].mean_s < got["plain5"].mean_s < got["plain3"].mean_s < got["fcfs"].mean_s
    assert got["lengthwise"].mean_s < 0.95 * got["fcfs"].mean_s
    assert got["lengthwise"].max_s < 0.6 * got["plain5"].max_s


def test_the_stand_in_has_the_published_moments() -> None:
    got = classified(None)
    assert len(got.tokens) == 85_482
    assert got.tokens.mean() == pytest.approx(176.8, rel=0.02)
    assert got.tokens.std() == pytest.approx(145.9, rel=0.02)
    assert np.percentile(got.tokens, (10, 50, 99)) == pytest.approx((13, 140, 502), abs=2)
    assert np.bincount(got.five).tolist() == [21_495, 21_336, 19_822, 20_410, 2_419]
    gaps = np.diff(azure_ms(None))
    assert gaps.mean() == pytest.approx(180.8, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(1.09, rel=0.03)


def test_a_folder_without_the_files_gives_the_stand_ins(tmp_path: Path) -> None:
    assert not classified(tmp_path).recorded
    assert all(earlier <= later for earlier, later in pairwise(azure_ms(tmp_path)))


@pytest.mark.slow
def test_the_published_gain_comes_out_of_the_legacy_simulator_and_not_all_of_it_is_real() -> None:
    answers, trace = classified(None), azure_ms(None)
    batches = LegacyBatching(size=2, dynamic=True)
    old = legacy(answers, trace, batches)["gamma"]
    new = corrected(answers, trace, batches)["gamma"]
    assert 0.25 < 1 - old["ssjf5"].mean_s / old["fcfs"].mean_s < 0.40
    assert 1 - new["ssjf5"].mean_s / new["fcfs"].mean_s < 0.20
    assert new["ssjf5"].whole_per_s / new["fcfs"].whole_per_s == pytest.approx(1, abs=0.02)
