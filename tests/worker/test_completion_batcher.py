"""Jobs that end together are reported together, against a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
import redis.asyncio as redis

from lengthwise_contract.states import JobState
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import Claim, Completion, Outcome, OutcomeKind
from lengthwise_store.store import JobStore
from lengthwise_worker.completion_batcher import CompletionBatcher

if TYPE_CHECKING:
    from tests.worker.conftest import Rig


@pytest.fixture
def redis_url(quiet_redis_url: str) -> str:
    """A server that no other test uses, because commands and connections are counted."""
    return quiet_redis_url


class Ender:
    """A CompletionBatcher over a store, and the claims that it started."""

    def __init__(self, rig: Rig, store: JobStore, *, may_claim: bool = True) -> None:
        self.started: list[Claim] = []
        self.completions = CompletionBatcher(
            store,
            queue=rig.queue,
            worker_id="w",
            slots=16,
            room=lambda ending: ending if may_claim else 0,
            start=self._start,
        )

    def _start(self, claims: Sequence[Claim]) -> None:
        self.started += claims

    async def end(self, claims: Sequence[Claim], *, claim: bool = True) -> list[JobState | None]:
        """Complete all claims in one turn of the loop."""
        outcome = Outcome(kind=OutcomeKind.OK, output_tokens=1)
        return await asyncio.gather(
            *(
                self.completions.complete(Completion(lease=c.lease, outcome=outcome), claim=claim)
                for c in claims
            )
        )


async def claimed(rig: Rig, count: int, *, waiting: int = 0) -> list[Claim]:
    for number in range(count + waiting):
        await rig.submit(f"job-{number:03d}")
    return await rig.store.claim(rig.queue, worker_id="w", count=count)


def test_slots_of_jobs_that_end_together_are_refilled_by_one_claim(rig: Rig) -> None:
    async def body() -> None:
        first, *claims = await claimed(rig, 6, waiting=9)
        await Ender(rig, rig.store).end([first], claim=False)  # now the script is loaded
        ender = Ender(rig, rig.store)
        async with redis.Redis.from_url(rig.redis_url) as client:
            await client.config_resetstat()
            states = await ender.end(claims)
            stats = await client.info("commandstats")
        assert states == [JobState.SUCCEEDED] * 5
        assert [c.lease.job_id for c in ender.started] == [f"job-{n:03d}" for n in range(6, 11)]
        assert stats["cmdstat_evalsha"]["calls"] == 2  # five completions, one claim

    rig.run(body)


def test_many_completions_are_split_and_each_job_gets_its_own_state(rig: Rig) -> None:
    async def body() -> None:
        claims = await claimed(rig, 50)
        taken = claims[::7]
        for claim in taken:  # another worker ends them first
            await Ender(rig, rig.store).end([claim], claim=False)
        other = [
            Claim(**{**vars(c), "lease": type(c.lease)(**{**vars(c.lease), "nonce": "old"})})
            if c in taken
            else c
            for c in claims
        ]
        states = await Ender(rig, rig.store).end(other)
        want = [None if c in taken else JobState.SUCCEEDED for c in claims]
        assert states == want

    rig.run(body)


class Counted(JobStore):
    """Counts the jobs of each report, and the reports in flight at once."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.sizes: list[int] = []
        self.most = self._in_flight = 0

    async def finish_all(self, queue: str, completions: Sequence[Completion], **more: Any) -> Any:
        self.sizes.append(len(completions))
        self._in_flight += 1
        self.most = max(self.most, self._in_flight)
        try:
            return await super().finish_all(queue, completions, **more)
        finally:
            self._in_flight -= 1


def test_at_most_two_reports_are_in_flight_and_travel_apart(rig: Rig) -> None:
    """In one pipeline they were answered together, so worker and server waited for each other."""

    async def body() -> None:
        claims = await claimed(rig, 50)
        store = Counted(rig.redis_url)
        await Ender(rig, store).end(claims[:1], claim=False)  # now the script is loaded
        async with redis.Redis.from_url(rig.redis_url) as client:
            before = len(await client.client_list())
            assert await Ender(rig, store).end(claims[1:]) == [JobState.SUCCEEDED] * 49
            assert len(await client.client_list()) == before + 1  # a second connection
        assert store.sizes == [1, 16, 16, 16, 1]
        assert store.most == 2
        await store.aclose()

    rig.run(body)


def test_a_repeated_report_returns_the_same_and_claims_nothing(rig: Rig) -> None:
    async def body() -> None:
        claims = await claimed(rig, 2, waiting=4)
        ender = Ender(rig, rig.store)
        assert await ender.end(claims, claim=False) == [JobState.SUCCEEDED] * 2
        assert await ender.end(claims, claim=False) == [JobState.SUCCEEDED] * 2
        assert ender.started == []

    rig.run(body)


def test_a_worker_that_may_not_claim_claims_nothing(rig: Rig) -> None:
    async def body() -> None:
        claims = await claimed(rig, 2, waiting=4)
        ender = Ender(rig, rig.store, may_claim=False)
        assert await ender.end(claims) == [JobState.SUCCEEDED] * 2
        assert ender.started == []

    rig.run(body)


def test_every_job_gets_the_error_of_a_store_that_is_down(rig: Rig) -> None:
    async def body() -> None:
        claims = await claimed(rig, 3)
        away = JobStore("redis://127.0.0.1:1/0")
        ender = Ender(rig, away)
        outcome = Outcome(kind=OutcomeKind.OK)
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(30):
                await ender.completions.complete(
                    Completion(lease=claims[0].lease, outcome=outcome), claim=True
                )
        answers = await asyncio.gather(
            *(
                ender.completions.complete(Completion(lease=c.lease, outcome=outcome), claim=True)
                for c in claims
            ),
            return_exceptions=True,
        )
        assert [type(a) for a in answers] == [StoreUnavailable] * 3
        await away.aclose()

    rig.run(body)
