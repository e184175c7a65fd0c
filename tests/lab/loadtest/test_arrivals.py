"""Arrival processes: means, shapes, and invalid input."""

from __future__ import annotations

import gzip
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lengthwise_lab.errors import BadWorkload
from lengthwise_lab.loadtest.arrivals import ArrivalKind, ArrivalProcess, read_trace

TRACE = tuple(float(t) for t in (0, 1, 1.5, 1.6, 8, 9, 20))


def gaps(count: int = 20_000, **settings: Any) -> list[float]:
    times = ArrivalProcess(**settings).times(count, seed=1)
    return [b - a for a, b in pairwise(times)]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        pytest.param(ArrivalKind.POISSON, {}, id="poisson"),
        pytest.param(ArrivalKind.GAMMA, {"variation": 3.0}, id="gamma"),
        pytest.param(ArrivalKind.ONOFF, {"on_s": 2.0, "off_s": 3.0}, id="onoff"),
        pytest.param(ArrivalKind.TRACE, {"trace_s": TRACE}, id="trace"),
    ],
)
def test_times_ascend_from_0_keep_the_mean_rate_and_depend_only_on_the_seed(
    kind: ArrivalKind, settings: dict[str, Any]
) -> None:
    arrivals = ArrivalProcess(kind=kind, rate_per_s=5.0, **settings)
    times = arrivals.times(20_000, seed=1)
    assert times[0] == 0
    assert all(a <= b for a, b in pairwise(times))
    assert times[-1] / 19_999 == pytest.approx(0.2, rel=0.06)
    assert times == arrivals.times(20_000, seed=1)
    assert times != arrivals.times(20_000, seed=2)


@pytest.mark.parametrize("variation", [0.5, 1.0, 3.0])
def test_gamma_gaps_have_the_variation_that_is_configured(variation: float) -> None:
    seen = gaps(kind=ArrivalKind.GAMMA, rate_per_s=5.0, variation=variation)
    assert statistics.stdev(seen) / statistics.mean(seen) == pytest.approx(variation, rel=0.06)


def test_no_request_arrives_while_an_onoff_process_is_off() -> None:
    times = ArrivalProcess(kind=ArrivalKind.ONOFF, rate_per_s=5.0, on_s=2.0, off_s=3.0).times(
        5000, seed=1
    )
    assert all(t % 5.0 <= 2.0 for t in times)
    assert sum(gap > 3.0 for gap in pairwise_gaps(times)) == int(times[-1] / 5)


def pairwise_gaps(times: list[float]) -> list[float]:
    return [b - a for a, b in pairwise(times)]


def test_a_trace_keeps_its_gaps_in_their_order_stretched_by_one_factor() -> None:
    seen = gaps(6, kind=ArrivalKind.TRACE, rate_per_s=6 / 20, trace_s=TRACE)
    own = pairwise_gaps(list(TRACE))
    doubled = own + own
    # The rate is that of the trace, so the factor is 1.
    assert any(seen == pytest.approx(doubled[i : i + 5]) for i in range(len(own)))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"kind": ArrivalKind.POISSON}, id="no rate"),
        pytest.param({"kind": ArrivalKind.POISSON, "rate_per_s": 0.0}, id="rate 0"),
        pytest.param(
            {"kind": ArrivalKind.GAMMA, "rate_per_s": 1.0, "variation": 0.0}, id="variation"
        ),
        pytest.param({"kind": ArrivalKind.ONOFF, "rate_per_s": 1.0, "on_s": 0.0}, id="never on"),
        pytest.param({"kind": ArrivalKind.TRACE, "rate_per_s": 1.0}, id="no trace"),
    ],
)
def test_an_impossible_process_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need"):
        ArrivalProcess(**settings)


def test_a_trace_is_read_from_a_csv_plain_or_zipped(tmp_path: Path) -> None:
    plain, zipped = tmp_path / "a.csv", tmp_path / "a.csv.gz"
    plain.write_text("arrival_s,prompt_tokens\n0.0,5\n1.5,6\n")
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_trace(plain) == read_trace(zipped) == (0.0, 1.5)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("when\n1\n2\n", "needs a column `arrival_s`", id="no column"),
        pytest.param("arrival_s\n1\nsoon\n", "cannot read", id="no number"),
        pytest.param("arrival_s\n2\n1\n", "in ascending order", id="backwards"),
        pytest.param("arrival_s\n2\n", "two arrivals", id="one"),
    ],
)
def test_a_bad_trace_is_refused_by_name(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(BadWorkload, match=why):
        read_trace(path)
