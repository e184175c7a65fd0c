"""The details of the requests behind a headline number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_lab.reproductions.table.details import (
    BUCKETS,
    RequestTimes,
    describe,
    quantiles,
    spread,
)

NEVER = float("nan")


def run(*rows: tuple[float, float, float, float, float]) -> RequestTimes:
    """Make the times from rows of (arrival, start, end, alone, tokens)."""
    columns = np.array(rows, float).T
    return RequestTimes(
        arrival_s=columns[0],
        start_s=columns[1],
        end_s=columns[2],
        alone_s=columns[3],
        tokens=columns[4],
    )


#: One slot, shortest first: the long job arrived first and is overtaken by both others.
LONG_LAST = run((0, 3, 13, 10, 300), (1, 1, 2, 1, 10), (2, 2, 3, 1, 64))


def test_completion_is_from_sending_to_the_complete_answer() -> None:
    got = describe([LONG_LAST], policy="sjf")
    assert got["completion_s"] == {"count": 3, "mean": 5.0, "p50": 1.0, "p99": 12.76, "max": 13.0}


def test_a_length_on_the_edge_of_a_bucket_is_in_the_shorter_bucket() -> None:
    got = describe([LONG_LAST], policy="sjf")["buckets"]
    assert {name: got[name]["count"] for name in BUCKETS} == {
        "1-64": 2,
        "65-256": 0,
        "257-1024": 1,
        "1025+": 0,
    }


def test_fairness_is_of_the_requests_slowdowns() -> None:
    got = describe([LONG_LAST], policy="sjf")["fairness"]
    # 13/10, 1 and 1.
    assert got["jain_of_slowdowns"] == pytest.approx(3.3**2 / (3 * (1.69 + 1 + 1)), rel=1e-5)
    assert got["slowdown"]["max"] == 1.3


def test_overtaking_is_counted_in_seconds_and_in_places() -> None:
    got = describe([LONG_LAST], policy="sjf")["starvation"]
    assert (got["max_lag_s"], got["max_places_lost"], got["max_wait_s"]) == (2, 2, 3)


def test_a_request_that_starts_at_the_same_instant_has_not_overtaken() -> None:
    together = run((0, 5, 6, 1, 1), (4, 5, 6, 1, 1))
    got = describe([together], policy="static batches")["starvation"]
    assert (got["max_lag_s"], got["max_places_lost"]) == (0, 0)


def test_a_request_starves_when_it_waits_more_than_ten_times_its_length() -> None:
    waits = run((0, 10, 11, 1, 1), (0, 11, 12, 1, 1), (0, 101, 121, 20, 1))
    got = describe([waits], policy="fcfs")["starvation"]
    assert got["share_waiting_over_10_times_its_length"] == pytest.approx(1 / 3, rel=1e-5)
    assert got["share_waiting_over_100_s"] == pytest.approx(1 / 3, rel=1e-5)


def test_a_request_that_was_never_served_is_counted_and_changes_no_figure() -> None:
    got = describe([run((0, 0, 4, 4, 9), (1, NEVER, NEVER, 1, 9))], policy="legacy")
    assert (got["requests"], got["completion_s"]["count"]) == (2, 1)
    assert got["completion_s"]["max"] == 4
    assert got["starvation"]["never_served"] == 1


def test_means_are_over_the_runs_and_maxima_of_all_of_them() -> None:
    got = spread([np.array([1.0, 3.0]), np.array([10.0]), np.array([])])
    assert got == {"count": 3, "mean": 6.0, "p50": 6.0, "p99": (1 + 2 * 0.99 + 10) / 2, "max": 10.0}


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_quantiles_are_those_of_numpy(values: list[float]) -> None:
    wanted = np.quantile(values, (0.0, 0.5, 0.99, 1.0))
    assert quantiles(np.array(values), (0.0, 0.5, 0.99, 1.0)) == pytest.approx(wanted.tolist())


@given(
    st.lists(
        st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(0.1, 9), st.integers(1, 2000)),
        min_size=1,
        max_size=25,
    )
)
def test_the_latest_overtaking_is_that_of_all_pairs(
    rows: list[tuple[float, float, float, int]],
) -> None:
    rows.sort()
    jobs = [(came, came + wait, came + wait + alone, alone, n) for came, wait, alone, n in rows]
    got = describe([run(*jobs)], policy="any")["starvation"]
    want = max(
        (other[0] - job[0] for job in jobs for other in jobs if other[1] < job[1]), default=0.0
    )
    assert got["max_lag_s"] == pytest.approx(max(want, 0.0), rel=1e-5)
