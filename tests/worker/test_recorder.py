"""What a worker records of answered jobs for training: nothing, unless the queue is set to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.states import JobState
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import Claim, Lease, Outcome, OutcomeKind
from lengthwise_store.keys import QueueKeys
from lengthwise_store.store import JobStore
from lengthwise_store.training_log import length_row, read_request
from lengthwise_worker.engines.simulated.batch import Faults
from lengthwise_worker.recorder import MOST_WAITING, Recorder

if TYPE_CHECKING:
    from tests.worker.conftest import Rig


async def kept(rig: Rig) -> list[dict[str, Any]]:
    return [json.loads(row) for _, row in await rig.store.training_rows(rig.queue)]


@pytest.mark.slow
def test_answers_are_recorded_with_their_requests_if_the_queue_is_set_to_it(rig: Rig) -> None:
    async def body() -> None:
        await rig.store.put_queue(rig.queue, QueueSettings(record_rows=100))
        engine = rig.engine()
        async with rig.working(engine.url) as worker:
            await worker.recorder.settings_known.wait()
            await rig.submit("long", tokens=9, max_tokens=50)
            await rig.submit("cut", tokens=9, max_tokens=7)
            await rig.submit("several", tokens=9, n=2)
            for name in ("long", "cut", "several"):
                await rig.state(name, JobState.SUCCEEDED)
            engine.batch.misbehave(Faults(status=400, times=1))
            await rig.submit("bad")
            await rig.state("bad", JobState.FAILED)

            async def recorded() -> bool:
                return len(await kept(rig)) >= 2

            await rig.until(recorded)
        rows = {row["id"]: row for row in await kept(rig)}
        assert {name: row["censored"] for name, row in rows.items()} == {"long": False, "cut": True}
        assert rows["long"]["messages"] == [{"role": "user", "content": "question long"}]
        assert rows["long"]["output_tokens"] == 9
        assert rows["long"]["model"] == rig.queue

    rig.run(body)


def test_nothing_is_recorded_unless_the_queue_is_set_to_it(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine()
        async with rig.working(engine.url) as worker:
            await worker.recorder.settings_known.wait()
            await rig.submit("j")
            await rig.state("j", JobState.SUCCEEDED)
            assert worker.recorder.waiting == 0
        assert await kept(rig) == []

    rig.run(body)


def test_rows_that_wait_when_the_worker_ends_are_written(rig: Rig) -> None:
    async def body() -> None:
        await rig.store.put_queue(rig.queue, QueueSettings(record_rows=100))
        engine = rig.engine()
        async with rig.working(engine.url) as worker:
            await worker.recorder.settings_known.wait()
            await rig.submit("j")
            await rig.state("j", JobState.SUCCEEDED)
            await rig.becomes(lambda: worker.running == 0)
        assert [row["id"] for row in await kept(rig)] == ["j"]

    rig.run(body)


def test_turning_the_training_log_off_deletes_its_rows(rig: Rig) -> None:
    async def body() -> None:
        await rig.store.put_queue(rig.queue, QueueSettings(record_rows=100))
        await rig.store.append_training_rows(rig.queue, [b'{"id": "a"}'], most=100, ttl_ms=60_000)
        await rig.store.put_queue(rig.queue, QueueSettings(record_rows=50))
        assert len(await kept(rig)) == 1
        await rig.store.put_queue(rig.queue, QueueSettings())
        assert await kept(rig) == []

    rig.run(body)


def test_a_worker_that_reads_the_setting_late_deletes_the_rows_that_it_wrote(
    rig: Rig,
) -> None:
    async def body() -> None:
        recorder = Recorder(rig.queue)
        await rig.store.put_queue(rig.queue, QueueSettings(record_rows=100))
        await recorder.read_settings(rig.store)
        await rig.store.put_queue(rig.queue, QueueSettings())
        await rig.store.append_training_rows(
            rig.queue, [b'{"id": "late"}'], most=100, ttl_ms=60_000
        )
        await recorder.read_settings(rig.store)
        assert await kept(rig) == []

    rig.run(body)


def test_the_training_log_is_bounded_in_rows_and_in_age(rig: Rig) -> None:
    async def body() -> None:
        rows = [b"%d" % i for i in range(1000)]
        await rig.store.append_training_rows(rig.queue, rows, most=200, ttl_ms=60_000)
        found = await rig.store.training_rows(rig.queue, limit=1000)
        assert [row for _, row in found] == rows[-200:]
        key = QueueKeys(rig.queue).record
        assert 0 < await rig.store.client.pttl(key) <= 60_000
        last = found[-1][0]
        assert await rig.store.training_rows(rig.queue, after=last) == []

        async def old_rows_are_gone() -> bool:
            await rig.store.append_training_rows(rig.queue, [b"new"], most=200, ttl_ms=1)
            first = await rig.store.training_rows(rig.queue, limit=1)
            return not first or first[0][0] > last

        await rig.until(old_rows_are_gone)

    rig.run(body)


@pytest.mark.parametrize(
    "body", [b"no JSON", b"[1]", b'{"n": 2, "prompt": "a"}', b'{"input": "a"}'], ids=str
)
def test_a_request_without_one_answer_to_a_text_is_no_row(body: bytes) -> None:
    request = read_request(body) or {}
    assert length_row("j", "q", request, output_tokens=3, prompt_tokens=1) is None


@pytest.mark.slow
def test_rows_that_cannot_be_written_do_not_stop_the_work(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        await rig.store.put_queue(rig.queue, QueueSettings(record_rows=100))
        await rig.store.client.set(QueueKeys(rig.queue).record, "no stream")
        engine = rig.engine()
        async with rig.working(engine.url) as worker:
            await worker.recorder.settings_known.wait()
            for name in ("one", "two"):
                await rig.submit(name)
                await rig.state(name, JobState.SUCCEEDED)
                await rig.becomes(lambda: worker.recorder.waiting == 0)
        assert [r.message for r in caplog.records].count("training rows not written") >= 1

    rig.run(body)


class Unreachable(JobStore):
    """A store that does not answer while `away` is set."""

    away = False
    refused = 0

    async def append_training_rows(
        self, queue: str, rows: Sequence[bytes], *, most: int, ttl_ms: int
    ) -> None:
        if self.away:
            self.refused += 1
            raise StoreUnavailable("away")
        await super().append_training_rows(queue, rows, most=most, ttl_ms=ttl_ms)


def answered(number: int) -> tuple[Claim, Outcome]:
    """A claim and its outcome, as the worker gives them to the recorder."""
    claim = Claim(
        lease=Lease(job_id=f"job-{number:05}", nonce="n", attempt=1),
        endpoint="/v1/completions",
        body=b'{"prompt": "p"}',
        due_ms=0.0,
        predicted_tokens=1.0,
        deadline_ms=1.0,
    )
    return claim, Outcome(kind=OutcomeKind.OK, output_tokens=3, prompt_tokens=1)


@pytest.mark.slow
def test_an_unreachable_store_costs_the_oldest_rows_and_nothing_else(rig: Rig) -> None:
    async def body() -> None:
        await rig.store.put_queue(rig.queue, QueueSettings(record_rows=5000))
        recorder, store = Recorder(rig.queue), Unreachable(rig.redis_url)
        task = asyncio.create_task(recorder.run(store))
        await recorder.settings_known.wait()
        store.away = True
        for number in range(MOST_WAITING + 300):
            recorder.job_succeeded(*answered(number))
        await rig.becomes(lambda: store.refused > 0)
        assert not task.done()
        assert recorder.waiting == MOST_WAITING
        store.away = False
        await rig.becomes(lambda: recorder.waiting == 0)
        rows = await rig.store.training_rows(rig.queue, limit=5000)
        want = [f"job-{number:05}" for number in range(300, MOST_WAITING + 300)]
        assert [json.loads(row)["id"] for _, row in rows] == want
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        assert task.cancelled()
        await store.aclose()

    rig.run(body)


@pytest.mark.slow
def test_a_worker_that_ends_while_the_store_is_unreachable_loses_its_rows(rig: Rig) -> None:
    async def body() -> None:
        await rig.store.put_queue(rig.queue, QueueSettings(record_rows=100))
        recorder, store = Recorder(rig.queue), Unreachable(rig.redis_url)
        task = asyncio.create_task(recorder.run(store))
        await recorder.settings_known.wait()
        store.away = True
        recorder.job_succeeded(*answered(1))
        await rig.becomes(lambda: store.refused > 0)
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        assert task.cancelled()
        assert await kept(rig) == []
        await store.aclose()

    rig.run(body)


def test_a_store_that_never_answered_does_not_end_the_recorder(rig: Rig) -> None:
    async def body() -> None:
        recorder = Recorder(rig.queue)
        nowhere = JobStore("redis://127.0.0.1:1")
        task = asyncio.create_task(recorder.run(nowhere))
        await asyncio.sleep(0.05)  # time passes: the recorder has tried, which nothing reports
        assert not task.done()
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        assert task.cancelled()
        await nowhere.aclose()

    rig.run(body)
