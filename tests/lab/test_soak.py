"""A short soak: it passes, and it finds a key that has no bound."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lengthwise_lab.soak.run import QUEUE, soak
from lengthwise_store.jobs import NewJob, Submitted
from lengthwise_store.keys import QueueKeys
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore

#: Times short enough for a test.
TIMES = StoreSettings(
    lease_ms=500, beat_ms=200, tick_ms=50, retention_ms=600, dead_retention_ms=800
)


@pytest.mark.slow
def test_load_of_every_kind_leaves_no_key_without_a_bound() -> None:
    report = asyncio.run(soak(seconds=4, rate=50, times=TIMES))
    assert report.strays == {}
    assert report.left == []
    assert report.ok
    assert report.submitted > 100
    assert len(report.fates) == 10  # every kind of job was submitted


@pytest.mark.slow
def test_a_key_that_is_left_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = JobStore.submit

    async def leaks(self: JobStore, queue: str, job: NewJob) -> Submitted:
        if job.id.endswith("-40"):
            await self.client.set(f"{QueueKeys(QUEUE).prefix}note:1", "forgotten")
        return await submit(self, queue, job)

    monkeypatch.setattr(JobStore, "submit", leaks)
    report: Any = asyncio.run(soak(seconds=3, rate=30, times=TIMES))
    assert list(report.strays) == [f"{QueueKeys(QUEUE).prefix}note:1"]
    assert report.left == [f"{QueueKeys(QUEUE).prefix}note:1"]
    assert not report.ok
