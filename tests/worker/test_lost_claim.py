"""A worker whose claim is lost sends nothing more about the job, not even gathered pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from lengthwise_contract.states import JobState
from lengthwise_store.jobs import EntryKind, Lease, LeaseState
from lengthwise_store.keys import QueueKeys
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore

if TYPE_CHECKING:
    from tests.worker.conftest import Rig


class FailsOver(JobStore):
    """Its server loses the second emit of attempt 1, as a promoted replica that lagged does."""

    emits = 0
    after_lost = 0
    lost = False

    async def emit(self, queue: str, lease: Lease, chunks: Sequence[bytes]) -> LeaseState:
        if lease.attempt > 1:
            return await super().emit(queue, lease, chunks)
        self.emits += 1
        self.after_lost += self.lost
        keys = QueueKeys(queue)
        kept = {key: await self.client.dump(key) for key in (keys.job("j1"), keys.out("j1"))}
        state = await super().emit(queue, lease, chunks)
        await asyncio.sleep(0.02)  # time passes: the engine sends more pieces
        if self.emits == 2:
            for key, value in kept.items():
                await self.client.restore(key, 0, value, replace=True)
        self.lost = self.lost or state is LeaseState.LOST
        return state


@pytest.mark.slow
def test_after_a_failover_that_lost_output_the_rest_of_the_attempt_is_not_stored(rig: Rig) -> None:
    # A chaos run with crashing primaries found answers that began at their third piece. The store
    # had returned LOST and stopped counting the pieces of the claim. Until the engine's call was
    # closed, the worker sent the pieces that still came, and they were stored as the first ones.
    async def body() -> None:
        engine = rig.engine(tokens_per_s=500.0)
        times = StoreSettings(lease_ms=2000, beat_ms=150, tick_ms=50)
        stores: list[FailsOver] = []

        def open_store() -> FailsOver:
            stores.append(FailsOver(rig.redis_url, times))
            return stores[-1]

        async with rig.working(
            engine.url, open_store, lease_ms=2000, beat_ms=150, tick_ms=50, coalesce_ms=0
        ):
            await rig.submit("j1", tokens=400)
            entries = await rig.output("j1")
        chunks = [e for e in entries if e.kind is EntryKind.CHUNK]
        first = [e for e in chunks if e.attempt == 1]
        second = [e for e in chunks if e.attempt == 2]
        assert stores[0].lost
        assert stores[0].after_lost == 0
        assert first
        assert all(f" w{i}".encode() in entry.data for i, entry in enumerate(first))
        assert len(second) == 400
        assert (await rig.job("j1")).state is JobState.SUCCEEDED

    rig.run(body)
