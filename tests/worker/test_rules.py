"""The pure parts of the worker: batching, outcomes, the watchdog, backoff, priorities."""

from __future__ import annotations

import pytest

from lengthwise_store.jobs import OutcomeKind
from lengthwise_worker.backoff import Backoff
from lengthwise_worker.batching import Batching, BatchingMode
from lengthwise_worker.engines.vllm import priority_of
from lengthwise_worker.errors import (
    EngineBusy,
    EngineError,
    EngineFailed,
    EngineRefused,
    EngineUnavailable,
)
from lengthwise_worker.outcomes import (
    BUSY_CAP_MS,
    RETRY_CAP_MS,
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
    ("error", "want"),
    [
        (EngineRefused("x", status=400, body={"error": 1}), OutcomeKind.ERROR),
        (EngineFailed("x", status=500), OutcomeKind.RETRY),
        (EngineBusy("x", status=429), OutcomeKind.RELEASE),
        (EngineUnavailable("x"), OutcomeKind.RELEASE),
    ],
    ids=["refused", "failed", "busy", "away"],
)
def test_an_engine_error_ends_the_claim_with_its_outcome(
    error: EngineError, want: OutcomeKind
) -> None:
    outcome = outcome_of(error, attempt=1, service_ms=5.0, delay_ms=700, chance=0.5)
    assert outcome.kind is want
    if want is OutcomeKind.ERROR:
        assert outcome.error is not None
        assert (outcome.error.status, outcome.error.body) == (400, {"error": 1})
    if want is OutcomeKind.RELEASE:
        assert outcome.delay_ms == 700
    if want is OutcomeKind.RETRY:
        assert outcome.delay_ms == 500


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


def test_an_earlier_due_time_is_a_lower_priority_and_fits_a_64_bit_int() -> None:
    early, late = 1_800_000_000_000.4, 1_800_000_000_002.0
    assert priority_of(early) < priority_of(late)
    assert abs(priority_of(4_102_444_800_000.0)) < 2**53
