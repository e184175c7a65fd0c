"""What a worker keeps of answered jobs for training: nothing, unless the queue is set to."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.states import JobState
from lengthwise_store.keys import QueueKeys
from lengthwise_store.store import JobStore
from lengthwise_worker.engines.simulated.batch import Faults
from lengthwise_worker.recorder import Recorder

if TYPE_CHECKING:
    from tests.worker.conftest import Rig


async def kept(rig: Rig) -> list[dict[str, Any]]:
    return [json.loads(row) for _, row in await rig.store.training_rows(rig.queue)]


def test_answers_are_kept_with_their_requests_where_the_queue_is_set_to(rig: Rig) -> None:
    async def body() -> None:
        await rig.store.put_queue(rig.queue, QueueSettings(record_rows=100))
        engine = rig.engine()
        async with rig.working(engine.url) as worker:
            await worker._recorder.looked.wait()
            await rig.submit("long", tokens=9, max_tokens=50)
            await rig.submit("cut", tokens=9, max_tokens=7)
            await rig.submit("several", tokens=9, n=2)
            for name in ("long", "cut", "several"):
                await rig.state(name, JobState.SUCCEEDED)
            engine.batch.misbehave(Faults(status=400, times=1))
            await rig.submit("bad")
            await rig.state("bad", JobState.FAILED)

            async def there() -> bool:
                return len(await kept(rig)) >= 2

            await rig.until(there)
        rows = {row["id"]: row for row in await kept(rig)}
        assert {name: row["censored"] for name, row in rows.items()} == {"long": False, "cut": True}
        assert rows["long"]["messages"] == [{"role": "user", "content": "question long"}]
        assert rows["long"]["output_tokens"] == 9
        assert rows["long"]["model"] == rig.queue

    rig.run(body)


def test_nothing_is_kept_unless_the_queue_is_set_to(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine()
        async with rig.working(engine.url) as worker:
            await worker._recorder.looked.wait()
            await rig.submit("j")
            await rig.state("j", JobState.SUCCEEDED)
            assert not worker._recorder._rows
        assert await kept(rig) == []

    rig.run(body)


def test_rows_that_wait_when_the_worker_ends_are_written(rig: Rig) -> None:
    async def body() -> None:
        await rig.store.put_queue(rig.queue, QueueSettings(record_rows=100))
        engine = rig.engine()
        async with rig.working(engine.url) as worker:
            await worker._recorder.looked.wait()
            await rig.submit("j")
            await rig.state("j", JobState.SUCCEEDED)

            async def ended() -> bool:
                return not worker._runs

            await rig.until(ended)
        assert [row["id"] for row in await kept(rig)] == ["j"]

    rig.run(body)


def test_turning_it_off_deletes_what_was_kept(rig: Rig) -> None:
    async def body() -> None:
        await rig.store.put_queue(rig.queue, QueueSettings(record_rows=100))
        await rig.store.append_training_rows(rig.queue, [b'{"id": "a"}'], most=100, ttl_ms=60_000)
        await rig.store.put_queue(rig.queue, QueueSettings(record_rows=50))
        assert len(await kept(rig)) == 1
        await rig.store.put_queue(rig.queue, QueueSettings())
        assert await kept(rig) == []

    rig.run(body)


def test_a_worker_that_learns_of_it_late_deletes_what_it_wrote_meanwhile(rig: Rig) -> None:
    async def body() -> None:
        recorder = Recorder(rig.queue)
        await rig.store.put_queue(rig.queue, QueueSettings(record_rows=100))
        await recorder._look(rig.store)
        await rig.store.put_queue(rig.queue, QueueSettings())
        await rig.store.append_training_rows(
            rig.queue, [b'{"id": "late"}'], most=100, ttl_ms=60_000
        )
        await recorder._look(rig.store)
        assert await kept(rig) == []

    rig.run(body)


def test_the_record_is_bounded_in_rows_and_in_age(rig: Rig) -> None:
    async def body() -> None:
        rows = [b"%d" % i for i in range(1000)]
        await rig.store.append_training_rows(rig.queue, rows, most=200, ttl_ms=60_000)
        found = await rig.store.training_rows(rig.queue, limit=1000)
        assert [row for _, row in found] == rows[-200:]
        key = QueueKeys(rig.queue).record
        assert 0 < await rig.store.client.pttl(key) <= 60_000
        last = found[-1][0]
        assert await rig.store.training_rows(rig.queue, after=last) == []
        async with asyncio.timeout(10):
            while (await rig.store.training_rows(rig.queue)) and (
                await rig.store.training_rows(rig.queue, limit=1)
            )[0][0] <= last:
                await rig.store.append_training_rows(rig.queue, [b"new"], most=200, ttl_ms=1)

    rig.run(body)


@pytest.mark.parametrize(
    "body", [b"no JSON", b"[1]", b'{"n": 2, "prompt": "a"}', b'{"input": "a"}'], ids=str
)
def test_a_request_without_one_answer_to_a_text_is_no_row(body: bytes) -> None:
    from lengthwise_store.training_log import length_row, read_request

    request = read_request(body) or {}
    assert length_row("j", "q", request, output_tokens=3, prompt_tokens=1) is None


def test_a_record_that_cannot_be_written_does_not_stop_the_work(rig: Rig) -> None:
    async def body() -> None:
        await rig.store.put_queue(rig.queue, QueueSettings(record_rows=100))
        await rig.store.client.set(QueueKeys(rig.queue).record, "no stream")
        engine = rig.engine()
        async with rig.working(engine.url) as worker:
            await worker._recorder.looked.wait()
            for name in ("one", "two"):
                await rig.submit(name)
                await rig.state(name, JobState.SUCCEEDED)

                async def given_up() -> bool:
                    return not worker._recorder._rows

                await rig.until(given_up)

    rig.run(body)


def test_a_store_that_is_away_costs_rows_and_nothing_else(rig: Rig) -> None:
    async def body() -> None:
        recorder = Recorder(rig.queue)
        nowhere = JobStore("redis://127.0.0.1:1")
        task = asyncio.create_task(recorder.run(nowhere))
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        assert task.cancelled()
        await nowhere.aclose()

    rig.run(body)
