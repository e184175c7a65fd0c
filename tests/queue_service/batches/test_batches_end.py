"""A batch always ends, and a cancellation always ends, whatever changes after it was accepted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis
from tests.queue_service.batch_desk import ENDED, Desk, lines

from lengthwise_contract.jobs import EndpointPath
from lengthwise_queue.admission.submit import Admission
from lengthwise_queue.batches import runner, submission
from lengthwise_queue.openai.registry import ENDPOINTS
from lengthwise_store.batches.batch import BatchStatus
from lengthwise_store.batches.store import BatchStore
from lengthwise_store.jobs import Claim, Outcome
from lengthwise_store.keys import BatchKeys, QueueKeys

LONG = 60_000


@pytest.fixture
def keys(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "FAULT_PAUSE_S", 0.05)
    monkeypatch.setattr(runner, "POLL_S", 0.05)
    monkeypatch.setattr(submission, "FAULT_PAUSE_S", 0.01)


def long_lines(model: str) -> list[dict[str, Any]]:
    """Thirty lines, the last ten of which are long."""
    items = lines(model, 30)
    for item in items[20:]:
        item["body"]["user"] = "u" * LONG
    return items


def restart(
    make_front: Callable[..., Any],
    until: Callable[..., Any],
    desk: Desk,
    batch: Any,
    meanwhile: Callable[[], Any] = lambda: None,
    **new: Any,
) -> Desk:
    """Restart the queue service with other settings while a batch is in progress."""
    until(lambda: desk.counts(batch)["total"] == 30, "the input is checked")
    desk.front.close()
    meanwhile()
    return Desk(make_front(**new), until)


# A batch in progress met a lower MAX_BODY_BYTES after a restart: its lines could not be read, the
# same fault was logged every 5 s for ever, and its cancellation did not end either.
@pytest.mark.slow
def test_a_batch_ends_although_the_body_limit_was_lowered_after_it_was_accepted(
    make_front: Callable[..., Any], until: Callable[..., Any]
) -> None:
    before = make_front(max_body_bytes=100_000, batch_window=4)
    before.put_queue()
    made = Desk(before, until).make(long_lines(before.model))
    desk = restart(make_front, until, Desk(before, until), made, max_body_bytes=2000)
    desk.front.worker.start()
    batch = desk.reaches(made)
    assert batch.status == "completed"
    assert batch.request_counts.model_dump() == {"total": 30, "completed": 30, "failed": 0}


@pytest.mark.slow
def test_a_batch_is_checked_by_the_limit_it_was_accepted_under(
    make_front: Callable[..., Any], until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.BatchRunner, "start", lambda self: None)  # nothing is checked yet
    before = make_front(max_body_bytes=100_000)
    before.put_queue()
    made = Desk(before, until).make(long_lines(before.model))
    before.close()
    monkeypatch.undo()
    after = make_front(max_body_bytes=2000)
    after.worker.start()
    assert Desk(after, until).reaches(made).request_counts.completed == 30


@pytest.mark.slow
def test_a_cancellation_ends_although_the_body_limit_was_lowered(
    make_front: Callable[..., Any], until: Callable[..., Any], keys: redis.Redis
) -> None:
    before = make_front(max_body_bytes=100_000, batch_window=4)
    before.put_queue()
    made = Desk(before, until).make(long_lines(before.model))
    record = BatchKeys(made.id).record

    def cancelled() -> None:
        keys.hset(record, "status", BatchStatus.CANCELLING)
        keys.hdel(record, "max_body_bytes")  # an earlier release did not write it

    old = Desk(before, until)
    desk = restart(make_front, until, old, made, cancelled, max_body_bytes=2000)
    batch = desk.reaches(made)
    assert batch.status == "cancelled"
    assert batch.request_counts.model_dump() == {"total": 30, "completed": 0, "failed": 30}
    undone = desk.read(batch.error_file_id)
    assert {one["error"]["code"] for one in undone} == {"batch_cancelled"}


@pytest.mark.slow
def test_a_line_that_cannot_be_read_any_more_fails_with_a_reason(
    make_front: Callable[..., Any], until: Callable[..., Any], keys: redis.Redis
) -> None:
    before = make_front(max_body_bytes=100_000, batch_window=4)
    before.put_queue()
    made = Desk(before, until).make(long_lines(before.model))
    record = BatchKeys(made.id).record
    desk = restart(
        make_front,
        until,
        Desk(before, until),
        made,
        lambda: keys.hdel(record, "max_body_bytes"),  # an earlier release did not write it
        max_body_bytes=2000,
    )
    desk.front.worker.start()
    batch = desk.reaches(made)
    assert batch.status == "completed"
    assert batch.request_counts.model_dump() == {"total": 30, "completed": 20, "failed": 10}
    codes = {one["response"]["body"]["error"]["code"] for one in desk.read(batch.error_file_id)}
    assert codes == {"line_too_long"}


@pytest.fixture
def waiting(idle_front: Any, until: Callable[..., Any]) -> tuple[Desk, Any]:
    """A batch of thirty lines, of which four are jobs, without a worker."""
    idle_front.put_queue(max_depth=8)
    desk = Desk(idle_front, until)
    made = desk.make(lines(idle_front.model, 30, max_tokens=50))
    until(lambda: idle_front.http.get(f"/v1/queues/{idle_front.model}").json()["depth"] == 4, "4")
    return desk, made


def error_codes(desk: Desk, batch: Any) -> set[str]:
    return {one["response"]["body"]["error"]["code"] for one in desk.read(batch.error_file_id)}


def test_a_batch_ends_when_its_queue_is_deleted(waiting: tuple[Desk, Any]) -> None:
    desk, made = waiting
    url = f"/v1/queues/{desk.front.model}"
    assert desk.front.http.delete(url, params={"force": True}).is_success
    batch = desk.reaches(made)
    assert batch.request_counts.model_dump() == {"total": 30, "completed": 0, "failed": 30}
    # Four lines had jobs, which were cancelled with the queue.
    codes = error_codes(desk, batch)
    assert "model_not_found" in codes
    assert codes <= {"model_not_found", "job_cancelled", "queue_removed"}


def test_a_batch_ends_when_its_class_is_gone_and_the_context_was_lowered(
    waiting: tuple[Desk, Any],
) -> None:
    desk, made = waiting
    only = [{"name": "only", "offset_ms": 0}]
    desk.front.put_queue(max_depth=8, max_model_len=40, classes=only)
    desk.front.worker.start()
    batch = desk.reaches(made)
    assert batch.status == "completed"
    assert batch.request_counts.completed + batch.request_counts.failed == 30
    done = [one["response"]["request_id"] for one in desk.read(batch.output_file_id)]
    assert {desk.front.job(job_id)["class"] for job_id in done[4:]} == {"only"}


def test_a_batch_ends_when_its_tenant_is_removed(
    waiting: tuple[Desk, Any], keys: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, made = waiting
    registry = desk.front.server.config.app.state.service.tenants
    monkeypatch.setattr(registry, "named", lambda name: None)
    desk.front.worker.start()
    batch = desk.reaches(made)
    assert batch.request_counts.completed + batch.request_counts.failed == 30
    assert error_codes(desk, batch) == {"unknown_tenant"}


@pytest.mark.usefixtures("soon")
def test_a_batch_ends_when_its_endpoint_is_no_longer_served(
    waiting: tuple[Desk, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, made = waiting
    path: EndpointPath = "/v1/chat/completions"
    kept = [one for one in ENDPOINTS if one.path != path]
    monkeypatch.setattr("lengthwise_queue.openai.registry.ENDPOINTS", kept)
    monkeypatch.setattr(
        "lengthwise_queue.batches.submission.endpoint_at",
        lambda path: {one.path: one for one in kept}[path],
    )
    desk.front.worker.start()
    batch = desk.reaches(made)
    assert batch.status == "completed"
    assert batch.request_counts.completed + batch.request_counts.failed == 30
    assert error_codes(desk, batch) == {"internal_error"}


@pytest.mark.usefixtures("soon")
def test_a_line_with_an_unexpected_error_fails_and_the_others_are_answered(
    idle_front: Any, until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, submit = Desk(idle_front, until), Admission.submit

    async def faulty(self: Any, tenant: Any, endpoint: Any, body: bytes, *rest: Any) -> Any:
        if b'"q3"' in body:
            raise RuntimeError("a bug")
        return await submit(self, tenant, endpoint, body, *rest)

    monkeypatch.setattr(Admission, "submit", faulty)
    made = desk.make(lines(idle_front.model, 6))
    until(lambda: desk.counts(made)["failed"] == 1, "the line fails")
    idle_front.worker.start()
    batch = desk.reaches(made)
    assert batch.request_counts.model_dump() == {"total": 6, "completed": 5, "failed": 1}
    [failed] = desk.read(batch.error_file_id)
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("c3", 502)
    assert failed["response"]["body"]["error"]["code"] == "internal_error"


@pytest.mark.usefixtures("soon")
def test_a_line_whose_job_vanishes_again_and_again_fails(
    idle_front: Any, keys: redis.Redis, until: Callable[..., Any]
) -> None:
    desk = Desk(idle_front, until)
    made = desk.make(lines(idle_front.model, 5))
    prefix = QueueKeys(desk.front.model).job("").encode()

    def deleted_until_it_ends() -> bool:
        for key in keys.scan_iter(prefix + b"*"):
            keys.delete(key)
        return desk.client.batches.retrieve(made.id).status in ENDED

    until(deleted_until_it_ends, "the batch ends")
    batch = desk.reaches(made)
    assert batch.request_counts.model_dump() == {"total": 5, "completed": 0, "failed": 5}
    assert error_codes(desk, batch) == {"job_gone"}


@pytest.mark.usefixtures("soon")
@pytest.mark.slow
@pytest.mark.parametrize(("cancel", "want"), [(False, "failed"), (True, "cancelled")])
def test_a_batch_that_fails_again_and_again_is_ended_with_a_reason(
    make_front: Callable[..., Any],
    until: Callable[..., Any],
    keys: redis.Redis,
    cancel: bool,
    want: str,
) -> None:
    before = make_front(batch_window=4)
    before.put_queue()
    desk = Desk(before, until)
    made = desk.make(lines(before.model, 30))
    until(lambda: before.http.get(f"/v1/queues/{before.model}").json()["depth"] == 4, "4 jobs")
    before.close()
    keys.hset(BatchKeys(made.id).open, "7", "not what this product writes")
    if cancel:
        keys.hset(BatchKeys(made.id).record, "status", BatchStatus.CANCELLING)
    desk = Desk(make_front(batch_lease_ms=1000), until)
    desk.front.worker.start()
    batch = desk.reaches(made)
    assert batch.status == want
    assert [error.code for error in batch.errors.data] == ["internal_error"]
    until(lambda: keys.zscore(BatchKeys.active, made.id) is None, "no replica tries it again")
    # And another batch is served.
    assert desk.reaches(desk.make(lines(before.model, 3))).request_counts.completed == 3


@pytest.mark.usefixtures("soon")
@pytest.mark.slow
def test_a_batch_whose_record_is_damaged_is_dropped_and_hides_no_other(
    make_front: Callable[..., Any], until: Callable[..., Any], keys: redis.Redis
) -> None:
    front = make_front(batch_lease_ms=1000)
    front.put_queue()
    desk = Desk(front, until)
    whole, odd, worse = (desk.make(lines(front.model, 2)) for _ in range(3))
    keys.hset(BatchKeys(odd.id).record, "status", "a status of a later release")
    keys.delete(BatchKeys(worse.id).record)
    keys.set(BatchKeys(worse.id).record, "not a hash")
    front.worker.start()
    assert desk.reaches(whole).status == "completed"
    until(lambda: keys.zcard(BatchKeys.active) == 0, "no replica tries them again")
    assert [one.id for one in desk.client.batches.list()] == [whole.id]
    answer = front.http.get(f"/v1/batches/{worse.id}")
    assert answer.status_code == 404


def test_faults_are_counted_from_the_last_progress(redis_url: str) -> None:
    async def body() -> None:
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            store = BatchStore(client, ttl_ms=60_000, lease_ms=1000)
            made = {"tenant": "t", "endpoint": "/v1/completions", "input_file_id": "f"}
            limits = {"window_ms": 60_000, "output_ttl_ms": 60_000, "max_body_bytes": 10_000}
            await store.create("b", metadata=None, **made, **limits)  # type: ignore[arg-type]
            _, batch = await store.acquire("b", "a")
            assert batch is not None
            assert [await store.fault("b", "a") for _ in range(3)] == [1, 2, 3]
            assert await store.move(batch, "a", BatchStatus.IN_PROGRESS)
            assert await store.fault("b", "a") == 1

    asyncio.run(body())


def test_an_answer_with_nan_is_valid_json_in_the_output_file(
    front: Any, until: Callable[..., Any]
) -> None:
    async def odd(claim: Claim) -> AsyncIterator[bytes | Outcome]:
        yield b'{"choices": [{"logprobs": [NaN, -Infinity, 1e400, 0.5]}]}'

    front.worker.script = odd
    desk = Desk(front, until)
    batch = desk.reaches(desk.make(lines(front.model, 1)))

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    text = desk.client.files.content(batch.output_file_id).text
    [result] = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    choice = result["response"]["body"]["choices"][0]
    assert choice["logprobs"] == [None, None, None, 0.5]


def test_a_number_that_json_cannot_express_is_that_lines_error(
    front: Any, until: Callable[..., Any]
) -> None:
    # It reached the engine as `Infinity`, which is not JSON.
    items = lines(front.model, 2)
    raw = json.dumps(items[1]).replace('"model"', '"large": 1e400, "model"').encode()
    desk = Desk(front, until)
    batch = desk.reaches(desk.make([items[0], raw]))
    assert batch.request_counts.model_dump() == {"total": 2, "completed": 1, "failed": 1}
    [failed] = desk.read(batch.error_file_id)
    assert failed["response"]["status_code"] == 400
    assert failed["response"]["body"]["error"]["param"] == "body"


def test_a_pretty_printed_file_is_reported_with_one_line_number(
    idle_front: Any, until: Callable[..., Any]
) -> None:
    desk = Desk(idle_front, until)
    item = lines(idle_front.model, 1)[0]
    batch = desk.reaches(desk.make([json.dumps(item, indent=2).encode()]))
    first, second = batch.errors.data[:2]
    assert (first.line, second.line) == (1, 2)
    assert "do not pretty-print it" in first.message
    assert "column" in second.message
    assert not [one for one in batch.errors.data if "line 1" in one.message]
