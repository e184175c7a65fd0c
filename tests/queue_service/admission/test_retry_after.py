"""How long a new job would wait, and when refused clients should retry."""

from __future__ import annotations

from typing import Any

import pytest

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.queue_views import WorkerView
from lengthwise_queue.admission import retry_after
from lengthwise_queue.admission.retry_after import LATEST_S, UNKNOWN_S, RetryAfter
from lengthwise_store.queues import QueueStats, TenantBacklog

SETTINGS = QueueSettings(default_ms_per_token=20, default_tokens=100)


def stats(*, slots: int = 4, tenants: dict[str, int] | None = None, **changes: Any) -> QueueStats:
    worker = WorkerView(id="w", slots=slots, running=0, engine="e", seen_ms=0)
    backlogs = [
        TenantBacklog(tenant=name, depth=depth, scheduled=0, dead=0, virtual_time=0)
        for name, depth in (tenants or {}).items()
    ]
    fields: dict[str, Any] = {
        "now_ms": 0.0,
        "depth": sum((tenants or {}).values()),
        "scheduled": 0,
        "in_flight": 0,
        "dead": 0,
        "backlog_tokens": 0.0,
        "oldest_accepted_ms": None,
        "ms_per_token": None,
        "median_tokens": None,
        "counters": {},
        "workers": [worker] if slots else [],
        "tenants": backlogs,
    }
    return QueueStats(**(fields | changes))


def wait_ms(seen: QueueStats, weights: dict[str, float] | None = None, **more: float) -> Any:
    return retry_after.predicted_wait_ms(
        SETTINGS, seen, tenant="me", weight_of=lambda name: (weights or {}).get(name, 1.0), **more
    )


def test_a_single_tenant_waits_for_the_whole_backlog() -> None:
    seen = stats(tenants={"me": 10}, backlog_tokens=1000.0)
    assert wait_ms(seen) == pytest.approx(1000 * 20 / 4)
    assert wait_ms(seen, more_tokens=1000) == pytest.approx(2000 * 20 / 4)


def test_a_tenant_does_not_wait_for_the_flood_of_another() -> None:
    seen = stats(tenants={"me": 1, "them": 2999}, backlog_tokens=300_000.0)
    whole_ms = 300_000 * 20 / 4
    assert wait_ms(seen) == pytest.approx(whole_ms * 2 / 3001 * 2)
    assert wait_ms(seen, {"me": 3.0}) == pytest.approx(whole_ms * 2 / 3001 * 4 / 3)


def test_a_tenant_never_waits_longer_than_the_whole_backlog() -> None:
    seen = stats(tenants={"me": 2999, "them": 1}, backlog_tokens=300_000.0)
    assert wait_ms(seen) == pytest.approx(300_000 * 20 / 4)


def test_without_a_worker_the_wait_is_unknown() -> None:
    assert wait_ms(stats(slots=0, tenants={"me": 1}, backlog_tokens=100.0)) is None
    assert retry_after.start_every_s(SETTINGS, stats(slots=0)) is None


def test_jobs_start_at_the_pace_of_the_queue() -> None:
    seen = stats(tenants={"me": 10}, backlog_tokens=2000.0)
    assert retry_after.start_every_s(SETTINGS, seen) == pytest.approx(200 * 0.02 / 4)
    assert retry_after.start_every_s(SETTINGS, stats()) == pytest.approx(100 * 0.02 / 4)


def test_refused_clients_retry_one_after_the_other() -> None:
    retry_after = RetryAfter()
    times = [retry_after.after_s("q", "", room_in_s=2, step_s=2, now_s=100) for _ in range(4)]
    assert times == [2, 4, 6, 8]
    assert retry_after.after_s("q", "", room_in_s=2, step_s=2, now_s=105) == 5
    assert retry_after.after_s("other", "", room_in_s=2, step_s=2, now_s=105) == 2
    assert retry_after.after_s("q", "", room_in_s=2, step_s=2, now_s=10_000) == 2


def test_the_time_is_within_what_clients_respect() -> None:
    retry_after = RetryAfter()
    assert retry_after.after_s("q", "", room_in_s=0.001, step_s=0.001, now_s=0) == 1
    for _ in range(3):  # many refused clients do not push it out of reach
        assert retry_after.after_s("q", "", room_in_s=9999, step_s=50, now_s=0) == LATEST_S
    assert retry_after.after_s("q", "", room_in_s=1, step_s=1, now_s=300) == 1


def test_without_a_worker_the_time_is_a_constant() -> None:
    assert RetryAfter().after_s("q", "", room_in_s=0, step_s=None, now_s=0) == UNKNOWN_S
