"""When a predictor that fails is asked again."""

from __future__ import annotations

import itertools

import pytest

from lengthwise_queue.prediction.circuit_breaker import (
    FAILURES_TO_OPEN,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    Breaker,
)


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.allows(now_s)
        breaker.failed(now_s)
    return breaker


def test_the_breaker_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker()
    for _ in range(3 * FAILURES_TO_OPEN):
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.allows(0.0)
    assert not opened().allows(0.0)


def test_an_open_breaker_lets_one_probe_through_at_a_time() -> None:
    breaker = opened()
    assert [breaker.allows(FIRST_PAUSE_S) for _ in range(3)] == [True, False, False]


def test_a_good_probe_closes_the_breaker() -> None:
    breaker = opened()
    assert breaker.allows(FIRST_PAUSE_S)
    breaker.succeeded()
    assert all(breaker.allows(FIRST_PAUSE_S) for _ in range(3))


def test_failed_probes_become_rarer_down_to_a_bound() -> None:
    breaker, now_s, probes = opened(), 0.0, []
    while now_s < 60:
        if breaker.allows(now_s):
            probes.append(now_s)
            breaker.failed(now_s)
        now_s += 1 / 64  # exact in binary
    gaps = [b - a for a, b in itertools.pairwise(probes)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(LONGEST_PAUSE_S, abs=0.02)
