"""The pure parts of the worker: batching, outcomes, the watchdog, backoff, priorities."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from lengthwise_store.jobs import OutcomeKind
from lengthwise_worker.backoff import Backoff
from lengthwise_worker.batching import Batching, BatchingMode
from lengthwise_worker.breaker import Breaker
from lengthwise_worker.engines.vllm import priority_of
from lengthwise_worker.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineRefused,
    EngineUnavailable,
)
from lengthwise_worker.outcomes import (
    ASKED_AGAIN,
    BUSY_CAP_MS,
    FREE_CLAIMS,
    RETRY_CAP_MS,
    Blame,
    busy_delay_ms,
    outcome_of,
    retry_delay_ms,
)
from lengthwise_worker.watchdog import Watchdog, WatchdogAction


@pytest.mark.parametrize(
    ("mode", "running", "filling", "want"),
    [
        ("none", 0, False, 1),
        ("none", 1, False, 0),
        ("static", 0, False, 4),
        ("static", 1, False, 0),
        ("static", 1, True, 3),
        ("static", 4, True, 0),
        ("continuous", 0, False, 4),
        ("continuous", 3, False, 1),
        ("continuous", 5, False, 0),
    ],
)
def test_the_room_for_more_jobs(mode: str, running: int, filling: bool, want: int) -> None:
    batching = Batching(mode=BatchingMode(mode), slots=4)
    assert batching.room(running, filling=filling) == want


@pytest.mark.parametrize(
    ("error", "blame", "attempt", "want"),
    [
        (EngineRefused("x", status=400, body={"error": 1}), "request", 1, OutcomeKind.ERROR),
        (EngineRefused("x", status=404), "replica", 99, OutcomeKind.RELEASE),
        # The engine had been restarted with the right model between the 404 and the probe.
        (EngineRefused("x", status=404), "request", ASKED_AGAIN, OutcomeKind.RELEASE),
        (EngineRefused("x", status=404), "request", ASKED_AGAIN + 1, OutcomeKind.ERROR),
        (EngineFailed("x", status=500), "job", 1, OutcomeKind.RETRY),
        (EngineFailed("x", status=500), "replica", FREE_CLAIMS, OutcomeKind.RELEASE),
        (EngineFailed("x", status=500), "replica", FREE_CLAIMS + 1, OutcomeKind.RETRY),
        (EngineBusy("x", status=429), "replica", 99, OutcomeKind.RELEASE),
        (EngineUnavailable("x"), "replica", 99, OutcomeKind.RELEASE),
    ],
    ids=[
        "refused",
        "other model",
        "404",
        "404 again",
        "failed alone",
        "failed",
        "failed often",
        "busy",
        "away",
    ],
)
def test_a_failed_call_ends_the_claim_by_whose_fault_it_is(
    error: EngineError, blame: str, attempt: int, want: OutcomeKind
) -> None:
    outcome = outcome_of(error, Blame(blame), attempt=attempt, service_ms=5.0, chance=0.5)
    assert outcome.kind is want
    if want is OutcomeKind.ERROR:
        assert outcome.error is not None
        assert (outcome.error.status, outcome.error.body) == (error.status, error.body)
    if want is OutcomeKind.RELEASE:
        assert outcome.delay_ms == 0  # another replica may be free
    if want is OutcomeKind.RETRY:
        assert outcome.delay_ms == retry_delay_ms(attempt, chance=0.5)


def test_retries_wait_longer_each_time_up_to_the_cap() -> None:
    longest = [retry_delay_ms(n, chance=0.999999) for n in range(1, 20)]
    assert longest[:3] == [999, 1999, 3999]
    assert longest == sorted(longest)
    assert max(longest) <= RETRY_CAP_MS
    assert retry_delay_ms(5, chance=0.0) == 0


@pytest.mark.parametrize(
    ("asked_s", "in_a_row", "chance", "want"),
    [
        (2.0, 0, 0.0, 2000),
        (2.0, 5, 0.5, 2500),
        (None, 0, 0.0, 500),
        (None, 2, 0.0, 2000),
        (None, 99, 0.0, BUSY_CAP_MS),
        (86_400.0, 0, 0.0, BUSY_CAP_MS),
        (0.0, 0, 0.0, 100),
    ],
)
def test_a_busy_engine_gets_a_pause_of(
    asked_s: float | None, in_a_row: int, chance: float, want: int
) -> None:
    assert busy_delay_ms(asked_s, in_a_row=in_a_row, chance=chance) == want


def test_the_watchdog_reconnects_first_and_gives_up_then() -> None:
    dog = Watchdog(30.0)
    checks = [dog.check(now, starving=True) for now in (0, 29, 30, 59, 60)]
    want = [
        WatchdogAction.NONE,
        WatchdogAction.NONE,
        WatchdogAction.RECONNECT,
        WatchdogAction.NONE,
        WatchdogAction.GIVE_UP,
    ]
    assert checks == want


def test_a_claim_resets_the_watchdog() -> None:
    dog = Watchdog(30.0)
    dog.check(0, starving=True)
    assert dog.check(31, starving=True) is WatchdogAction.RECONNECT
    dog.claimed()
    dog.check(32, starving=True)
    assert dog.check(63, starving=True) is WatchdogAction.RECONNECT


def test_an_empty_queue_resets_the_watchdog() -> None:
    dog = Watchdog(30.0)
    dog.check(0, starving=True)
    dog.check(20, starving=False)
    assert dog.check(40, starving=True) is WatchdogAction.NONE


def test_backoff_grows_to_its_cap_and_starts_again() -> None:
    backoff = Backoff(base_s=0.1, cap_s=1.0)
    pauses = [backoff.next_s() for _ in range(40)]
    assert all(0.05 <= p <= 1.0 for p in pauses)
    assert min(pauses[5:]) >= 0.5
    backoff.reset()
    assert backoff.next_s() <= 0.1


@pytest.mark.parametrize("year", [1957, 1970, 2026, 2027, 2038, 2060, 2093])
def test_an_earlier_due_time_is_a_lower_priority_that_fits_32_bits(year: int) -> None:
    due_ms = datetime(year, 12, 31, 23, 59, tzinfo=UTC).timestamp() * 1000
    assert -(2**31) <= priority_of(due_ms) < priority_of(due_ms + 1000) < 2**31
    assert priority_of(due_ms) <= priority_of(due_ms + 1)


def test_a_due_time_beyond_all_bounds_still_has_a_priority() -> None:
    far = [-1e18, -1e15, 0.0, 1.8e12, 1e15, 1e18]
    got = [priority_of(due_ms) for due_ms in far]
    assert got == sorted(got)
    assert (got[0], got[-1]) == (-(2**31), 2**31 - 1)


def failing(breaker: Breaker, *jobs: str, now_s: float = 0.0) -> list[bool]:
    return [breaker.job_failed(job, "they fail", now_s) for job in jobs]


def test_one_job_that_fails_again_and_again_alone_leaves_the_breaker_closed() -> None:
    breaker = Breaker(8)
    assert failing(breaker, "a", "a", "a", "a", "a") == [True] * 5
    assert not breaker.is_open
    assert breaker.room(3) > 5


def test_several_jobs_that_fail_without_a_success_between_open_the_breaker() -> None:
    breaker = Breaker(8)
    assert failing(breaker, "a", "b") == [True, False]
    breaker.answered()
    assert failing(breaker, "c", "d") == [True, False]
    assert not breaker.is_open
    failing(breaker, "e")
    assert breaker.is_open
    assert breaker.room(0) == 0


def test_after_a_probe_one_job_is_let_in_and_each_success_doubles_that() -> None:
    breaker = Breaker(8)
    breaker.trip("broken", 10.0)
    assert breaker.probe_due_s(10.0) == 2.0
    breaker.probed("still broken", 12.0)
    assert (breaker.is_open, breaker.problem) == (True, "still broken")
    breaker.probed(None, 14.0)
    rooms = [breaker.room(0)]
    for _ in range(4):
        breaker.answered()
        rooms.append(breaker.room(0))
    assert rooms == [1, 2, 4, math.inf, math.inf]
    assert breaker.room(99) > 0


def test_a_replica_whose_probes_mislead_is_tried_ever_less_often() -> None:
    breaker, now_s, pauses = Breaker(8), 0.0, []
    breaker.trip("broken", now_s)
    for turn in range(8):
        due_s = breaker.probe_due_s(now_s)
        assert due_s is not None
        pauses.append(due_s)
        now_s += due_s
        breaker.probed(None, now_s)
        breaker.job_failed(f"job-{turn}", "it fails", now_s)  # one is enough on trial
        assert breaker.is_open
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]
