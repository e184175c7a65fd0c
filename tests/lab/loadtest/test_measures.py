"""The statistics, against values computed by hand and against scipy and numpy."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy.stats import kendalltau

from lengthwise_lab.loadtest.measures import (
    Sample,
    bucket_edges,
    bucket_names,
    bucket_of,
    by_bucket,
    quantile,
    summarize,
    tau_b,
)
from lengthwise_lab.loadtest.oracle_model import list_schedule, oracle


def sample(index: int, **values: float) -> Sample:
    return Sample(index=index, due_to_send_s=values.pop("due_to_send_s", 0.0), **values)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------- quantiles


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_a_quantile_equals_that_of_numpy(q: float) -> None:
    rng = random.Random(7)  # noqa: S311
    values = [rng.expovariate(1) for _ in range(101)]
    assert quantile(values, q) == pytest.approx(float(np.quantile(values, q)))


def test_a_quantile_without_values_or_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match="0 values"):
        quantile([], 0.5)
    with pytest.raises(ValueError, match=r"q=1\.5"):
        quantile([1.0], 1.5)


def test_a_summary_has_the_mean_and_the_quantiles() -> None:
    got = summarize([float(i) for i in range(1, 102)])
    assert (got.count, got.mean_s, got.p50_s, got.p90_s, got.p99_s, got.max_s) == (
        101,
        51.0,
        51.0,
        91.0,
        100.0,
        101.0,
    )


# ------------------------------------------------------------------------------- rank agreement


@pytest.mark.parametrize(
    ("xs", "ys", "want"),
    [
        pytest.param([1, 2, 3], [10, 20, 30], 1.0, id="the same order"),
        pytest.param([1, 2, 3], [3, 2, 1], -1.0, id="the opposite order"),
        # 6 pairs: 4 concordant, 1 discordant, 1 tied in x: 3 / sqrt(5 * 6).
        pytest.param([1, 1, 2, 3], [1, 2, 4, 3], 3 / math.sqrt(30), id="a tie in one"),
        # 6 pairs: 4 concordant, 1 discordant, 1 tied in both: 3 / sqrt(5 * 5).
        pytest.param([1, 1, 2, 3], [1, 1, 4, 3], 3 / 5, id="a tie in both"),
    ],
)
def test_tau_b_equals_the_hand_counted_value(xs: list[float], ys: list[float], want: float) -> None:
    assert tau_b(xs, ys) == pytest.approx(want)


@pytest.mark.parametrize("values", [3, 10, 1000], ids=["many ties", "some ties", "few ties"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tau_b_equals_that_of_scipy_also_with_ties(seed: int, values: int) -> None:
    rng = random.Random(seed)  # noqa: S311
    xs = [float(rng.randrange(values)) for _ in range(200)]
    ys = [x + rng.randrange(values) for x in xs]
    assert tau_b(xs, ys) == pytest.approx(float(kendalltau(xs, ys).statistic))


@pytest.mark.parametrize(("xs", "ys"), [([], []), ([1], [2]), ([1, 1, 1], [1, 2, 3])])
def test_tau_b_is_not_defined_without_two_different_values(
    xs: list[float], ys: list[float]
) -> None:
    assert tau_b(xs, ys) is None


def test_tau_b_of_unequal_sequences_is_refused() -> None:
    with pytest.raises(ValueError, match="1 and 2"):
        tau_b([1.0], [1.0, 2.0])


# ------------------------------------------------------------------------------- buckets


def test_buckets_hold_equal_parts_and_every_value_is_in_one() -> None:
    values = [float(v) for v in range(1, 31)]
    edges = bucket_edges(values)
    counts = [sum(bucket_of(v, edges) == b for v in values) for b in range(3)]
    assert counts == [10, 10, 10]
    assert bucket_names(edges) == ["<= 11", "11-20", "> 20"]


def test_equal_predictions_make_one_bucket() -> None:
    edges = bucket_edges([256.0] * 9)
    assert edges == []
    assert bucket_names(edges) == ["all"]


def test_a_request_without_prediction_and_one_that_failed_are_in_no_bucket() -> None:
    samples = [
        sample(0, completion_s=1.0),
        sample(1, completion_s=2.0),
        Sample(index=2, due_to_send_s=0, error="HTTP 500"),
    ]
    got = by_bucket(samples, {0: 5.0, 2: 50.0}.get, [10.0])
    assert got[0] is not None
    assert (got[0].count, got[0].mean_s) == (1, 1.0)
    assert got[1] is None


# ------------------------------------------------------------------------------- the oracle


def scheduled(policy: str, arrivals: list[float], service: list[float], slots: int) -> list[float]:
    return list_schedule(
        arrivals,
        service,
        [1000 * s for s in service],
        slots=slots,
        policy=policy,  # type: ignore[arg-type]
        overtake_factor=1000,
    )


def test_one_slot_serves_a_burst_in_order_or_shortest_first() -> None:
    service = [10.0, 1.0, 2.0]
    assert scheduled("fcfs", [0, 0, 0], service, 1) == [10, 11, 13]
    assert scheduled("sjf", [0, 0, 0], service, 1) == [13, 1, 3]


def test_two_slots_take_the_next_request_as_they_become_free() -> None:
    # fcfs: slot A 4 (0-4), slot B 3 (0-3), then B 2 (3-5), A 1 (4-5).
    assert scheduled("fcfs", [0, 0, 0, 0], [4, 3, 2, 1], 2) == [4, 3, 5, 5]
    # sjf: 1 (0-1) and 2 (0-2), then 3 (1-4) and 4 (2-6).
    assert scheduled("sjf", [0, 0, 0, 0], [4, 3, 2, 1], 2) == [6, 4, 2, 1]


def test_no_request_is_served_before_it_arrives_and_a_running_one_is_not_interrupted() -> None:
    # The long one is alone at 0, so it runs; at 10 the short one runs before the middle one.
    assert scheduled("sjf", [0, 1, 2], [10, 5, 1], 1) == [10, 15, 9]
    # The slot is idle from 1 to 7.
    assert scheduled("fcfs", [0, 7], [1, 1], 1) == [1, 1]


def test_no_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="0 slots"):
        scheduled("fcfs", [0], [1], 0)


def test_the_oracle_orders_by_tokens_and_uses_the_measured_service_times() -> None:
    # By tokens the second runs first, although it held its slot for longer.
    samples = [
        sample(0, completion_s=9.0, output_tokens=100, service_s=2.0),
        sample(1, completion_s=9.0, output_tokens=10, service_s=3.0),
        Sample(index=2, due_to_send_s=0, error="HTTP 500"),
    ]
    got = oracle(samples, slots=1)
    assert got is not None
    shortest_first, fcfs = got
    assert (shortest_first.count, shortest_first.mean_s) == (2, 4.0)
    assert fcfs.mean_s == 3.5


def test_there_is_no_oracle_without_measurements() -> None:
    assert oracle([sample(0, completion_s=1.0)], slots=1) is None
