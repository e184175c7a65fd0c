"""Batches through the official client, on a real Valkey, with a scripted worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
import redis
from tests.queue_service.batch_desk import Desk, lines

from lengthwise_contract.jobs import JobError
from lengthwise_queue.batches import runner
from lengthwise_queue.openai import batches as routes_batches
from lengthwise_queue.openai import files as routes_files
from lengthwise_queue.tenants.tenant import Tenant
from lengthwise_store.batches.store import BatchStore
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import Claim, Outcome, OutcomeKind


@pytest.fixture
def desk(front: Any, until: Callable[..., Any]) -> Desk:
    return Desk(front, until)


@pytest.fixture
def idle_desk(idle_front: Any, until: Callable[..., Any]) -> Desk:
    return Desk(idle_front, until)


def test_a_batch_answers_every_line_once_in_openais_shape(desk: Desk) -> None:
    made = desk.make(lines(desk.front.model, 70), metadata={"what": "test"})
    assert (made.object, made.status, made.completion_window) == ("batch", "validating", "24h")
    assert made.metadata == {"what": "test"}
    assert made.expires_at == made.created_at + 86_400
    batch = desk.reaches(made)
    assert batch.status == "completed"
    assert batch.request_counts.model_dump() == {"total": 70, "completed": 70, "failed": 0}
    assert batch.model == desk.front.model
    assert batch.error_file_id is None
    assert batch.errors is None
    assert batch.usage.input_tokens == 70 * 3
    assert batch.usage.output_tokens == 70 * 7
    stamps = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert stamps == sorted(stamps)
    results = desk.read(batch.output_file_id)
    assert sorted(r["custom_id"] for r in results) == sorted(f"c{i}" for i in range(70))
    [first] = [r for r in results if r["custom_id"] == "c0"]
    assert first.keys() == {"id", "custom_id", "response", "error"}
    assert first["error"] is None
    assert first["response"].keys() == {"status_code", "request_id", "body"}
    assert first["response"]["status_code"] == 200
    content = first["response"]["body"]["choices"][0]["message"]["content"]
    assert content == "Hello, you"
    assert desk.front.job(first["response"]["request_id"])["class"] == "batch"
    output = desk.client.files.retrieve(batch.output_file_id)
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")


def test_completions_can_be_batched_too(desk: Desk) -> None:
    items = [
        {
            "custom_id": "one",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": desk.front.model, "prompt": "Hi"},
        }
    ]
    batch = desk.reaches(desk.make(items, "/v1/completions"))
    [result] = desk.read(batch.output_file_id)
    assert result["response"]["body"]["choices"][0]["text"] == "Hey"


def test_requests_that_fail_are_in_the_error_file_and_the_others_are_answered(desk: Desk) -> None:
    async def picky(claim: Claim) -> AsyncIterator[bytes | Outcome]:
        body = json.loads(claim.body)
        if body["messages"][0]["content"] == "q3":
            refusal = {"error": {"message": "no", "type": "BadRequestError", "code": 400}}
            error = JobError(code="refused", message="no", status=400, body=refusal)
            yield Outcome(kind=OutcomeKind.ERROR, error=error)
        else:
            yield json.dumps({"choices": []}, indent=1).encode()

    desk.front.worker.script = picky
    items = lines(desk.front.model, 6)
    items[4]["body"]["messages"] = "hello"
    batch = desk.reaches(desk.make(items))
    assert batch.status == "completed"
    assert batch.request_counts.model_dump() == {"total": 6, "completed": 4, "failed": 2}
    assert {r["custom_id"] for r in desk.read(batch.output_file_id)} == {"c0", "c1", "c2", "c5"}
    failed = {r["custom_id"]: r for r in desk.read(batch.error_file_id)}
    assert failed.keys() == {"c3", "c4"}
    assert failed["c3"]["response"]["status_code"] == 400
    assert failed["c3"]["response"]["body"]["error"]["message"] == "no"
    assert failed["c4"]["response"]["body"]["error"]["param"] == "messages"
    assert failed["c4"]["error"] is None


def test_wrong_lines_fail_the_batch_and_are_named_by_number(desk: Desk) -> None:
    good = lines(desk.front.model, 12)
    items: list[Any] = [
        good[0],
        b"{not json",
        b"",
        b"[1]",
        {k: v for k, v in good[1].items() if k != "custom_id"},
        good[0],
        good[2] | {"url": "/v1/completions"},
        good[3] | {"method": "GET"},
        good[4] | {"body": {"model": "another", "messages": []}},
        {k: v for k, v in good[5].items() if k != "body"},
        good[6] | {"body": good[6]["body"] | {"stream": True}},
        good[7],
    ]
    batch = desk.reaches(desk.make(items))
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.errors.object == "list"
    assert [(e.line, e.code, e.param) for e in batch.errors.data] == [
        (2, "invalid_json_line", None),
        (4, "invalid_json_line", None),
        (5, "missing_required_parameter", "custom_id"),
        (6, "duplicate_custom_id", "custom_id"),
        (7, "invalid_url", "url"),
        (8, "invalid_method", "method"),
        (9, "mismatched_model", "body.model"),
        (10, "missing_required_parameter", "body"),
        (11, "invalid_value", "body.stream"),
    ]
    assert batch.request_counts.total == 0
    assert (batch.output_file_id, batch.error_file_id) == (None, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("items", "code"),
    [
        ([], "empty_file"),
        (lines("no/worker-serves-this", 1), "model_not_found"),
        ([b"x" * 70_000], "line_too_long"),
        ([b"x"] * 50_001, "invalid_json_line"),
    ],
    ids=["empty", "unknown model", "long line", "many errors"],
)
def test_a_file_that_cannot_be_executed_fails_the_batch(
    make_front: Callable[..., Any], until: Callable[..., Any], items: list[Any], code: str
) -> None:
    front = make_front(max_body_bytes=50_000)
    front.put_queue()
    batch = Desk(front, until).reaches(Desk(front, until).make(items))
    assert batch.status == "failed"
    assert {e.code for e in batch.errors.data} == {code}
    assert len(batch.errors.data) <= 100


@pytest.mark.slow
def test_more_than_50000_requests_are_refused(idle_desk: Desk) -> None:
    batch = idle_desk.reaches(idle_desk.make(lines(idle_desk.front.model, 50_001)))
    assert batch.status == "failed"
    [error] = batch.errors.data
    assert error.code == "too_many_requests"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"colour": "red"}, "colour"),
    ],
    ids=["no such file", "endpoint", "window", "metadata", "unknown field"],
)
def test_a_wrong_batch_is_a_400_that_names_the_field(
    idle_desk: Desk, fields: dict[str, Any], param: str
) -> None:
    file = idle_desk.client.files.create(file=("f", b"{}"), purpose="batch")
    good = {
        "input_file_id": file.id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    answer = idle_desk.front.http.post("/v1/batches", json=good | fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_long_batch_does_not_fill_the_queue(idle_desk: Desk, until: Callable[..., Any]) -> None:
    front = idle_desk.front
    front.put_queue(max_depth=20)
    made = idle_desk.make(lines(front.model, 60))
    until(lambda: front.http.get(f"/v1/queues/{front.model}").json()["depth"] >= 10, "it runs")
    for _ in range(9):
        front.submit()  # requests outside the batch still find room
    assert front.http.get(f"/v1/queues/{front.model}").json()["depth"] <= 20
    front.worker.start()
    batch = idle_desk.reaches(made)
    assert batch.request_counts.completed == 60


@pytest.mark.slow
def test_a_batch_waits_while_the_queue_is_full(idle_desk: Desk, until: Callable[..., Any]) -> None:
    front = idle_desk.front
    front.put_queue(max_depth=5)
    for _ in range(5):
        front.submit()
    made = idle_desk.reaches(idle_desk.make(lines(front.model, 8)), "in_progress")
    until(lambda: front.metric("requests_total", service=front.model, outcome="refused"), "refused")
    front.worker.start()
    batch = idle_desk.reaches(made)
    assert batch.request_counts.model_dump() == {"total": 8, "completed": 8, "failed": 0}


@pytest.mark.slow
def test_a_cancelled_batch_keeps_what_was_done_and_names_what_was_not(
    desk: Desk, until: Callable[..., Any]
) -> None:
    begun: list[str] = []

    async def slow(claim: Claim) -> AsyncIterator[bytes | Outcome]:
        begun.append(json.loads(claim.body)["messages"][0]["content"])
        if len(begun) > 4:
            await asyncio.Event().wait()
        yield json.dumps({"choices": []}).encode()

    desk.front.worker.script = slow
    made = desk.make(lines(desk.front.model, 400))
    until(lambda: desk.counts(made)["completed"] >= 4, "some are done")
    cancelling = desk.client.batches.cancel(made.id)
    assert cancelling.status in ("cancelling", "cancelled")
    batch = desk.reaches(made)
    assert batch.status == "cancelled"
    assert batch.cancelling_at <= batch.cancelled_at
    done, undone = desk.read(batch.output_file_id), desk.read(batch.error_file_id)
    assert {r["custom_id"] for r in done} == {f"c{q[1:]}" for q in begun[:4]}
    assert sorted(r["custom_id"] for r in done + undone) == sorted(f"c{i}" for i in range(400))
    assert {r["error"]["code"] for r in undone} == {"batch_cancelled"}
    assert all(r["response"] is None for r in undone)
    assert batch.request_counts.model_dump() == {"total": 400, "completed": 4, "failed": 396}
    assert desk.front.http.get(f"/v1/queues/{desk.front.model}").json()["depth"] == 0
    again = desk.client.batches.cancel(made.id)
    assert again.status == "cancelled"


@pytest.mark.slow
def test_an_expired_batch_names_the_lines_that_did_not_run(
    make_front: Callable[..., Any], until: Callable[..., Any]
) -> None:
    front = make_front(batch_completion_s=2)
    front.put_queue()
    desk = Desk(front, until)
    batch = desk.reaches(desk.make(lines(front.model, 300)))  # there is no worker
    assert batch.status == "expired"
    assert batch.expired_at >= batch.expires_at
    assert batch.request_counts.model_dump() == {"total": 300, "completed": 0, "failed": 300}
    undone = desk.read(batch.error_file_id)
    assert sorted(r["custom_id"] for r in undone) == sorted(f"c{i}" for i in range(300))
    assert {r["error"]["code"] for r in undone} == {"batch_expired"}


def test_a_batch_whose_input_is_deleted_fails_and_keeps_its_results(desk: Desk) -> None:
    desk.front.put_queue(max_depth=20)  # ten lines at once
    items = lines(desk.front.model, 300, user="u" * 16_000)  # 64 lines fill a block
    made = desk.make(items)
    desk.reaches(made, "in_progress")
    desk.client.files.delete(made.input_file_id)
    batch = desk.reaches(made)
    # The lines that were read are finished; the batch fails at the next block.
    assert batch.status == "failed"
    assert [e.code for e in batch.errors.data] == ["input_file_gone"]
    done = batch.request_counts.completed
    assert 0 < done < 300
    assert len(desk.read(batch.output_file_id)) == done


@pytest.mark.slow
def test_a_batch_starts_no_new_lines_while_there_is_no_room_for_their_results(
    make_front: Callable[..., Any], until: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def long(claim: Claim) -> AsyncIterator[bytes | Outcome]:
        yield json.dumps({"choices": [], "text": "x" * 100_000}).encode()

    front = make_front(tenant_file_bytes=6 * 2**20, batch_window=5)
    front.put_queue()
    front.worker.script = long
    front.worker.start()
    desk = Desk(front, until)
    other = desk.client.files.create(file=("f", b"0" * (4 * 2**20)), purpose="batch")
    made = desk.make(lines(front.model, 45))
    until(lambda: "waits for room" in caplog.text, "there is no more room")
    assert desk.client.batches.retrieve(made.id).status == "in_progress"
    desk.client.files.delete(other.id)
    batch = desk.reaches(made)
    assert batch.request_counts.model_dump() == {"total": 45, "completed": 45, "failed": 0}
    assert len(desk.read(batch.output_file_id)) == 45


@pytest.mark.slow
def test_a_batch_that_cannot_continue_does_not_block_another(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "AT_ONCE", 1)
    monkeypatch.setattr(runner, "TURN_S", 0.1)
    desk.front.http.put("/v1/queues/no-worker-here", json={}).raise_for_status()
    stuck = desk.make(lines("no-worker-here", 5))
    desk.reaches(stuck, "in_progress")
    batch = desk.reaches(desk.make(lines(desk.front.model, 50)))
    assert batch.request_counts.completed == 50
    desk.client.batches.cancel(stuck.id)  # its turn comes again
    assert desk.reaches(stuck).request_counts.failed == 5


@pytest.mark.slow
def test_a_batch_survives_lost_connections_and_a_silent_redis(
    make_front: Callable[..., Any], until: Callable[..., Any]
) -> None:
    front = make_front(batch_lease_ms=1000)
    front.put_queue()
    front.worker.start()
    desk = Desk(front, until)
    made = desk.make(lines(front.model, 1500))
    with redis.Redis.from_url(front.redis_url, socket_timeout=30) as client:
        for share in (100, 300, 500, 700):
            until(lambda s=share: desk.counts(made)["completed"] >= s, f"{share} are done")
            client.client_kill_filter(_type="normal", skipme=True)
        # Longer than any command waits: the replica of the batch gives up, and acquires it again.
        client.client_pause(6000)
        client.ping()  # until it answers again: meanwhile a client gets a 503
    batch = desk.reaches(made)
    assert batch.request_counts.model_dump() == {"total": 1500, "completed": 1500, "failed": 0}
    results = desk.read(batch.output_file_id)
    assert sorted(r["custom_id"] for r in results) == sorted(f"c{i}" for i in range(1500))
    assert front.http.get(f"/v1/queues/{front.model}").json()["accepted"] == 1500


@pytest.mark.parametrize("lost", ["create", "get"])
def test_a_batch_whose_client_got_an_error_is_cancelled_however_often_redis_is_away(
    idle_desk: Desk, monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any], lost: str
) -> None:
    # The batch was stored, and the reply was lost, or the read that followed. Its client got a 503,
    # and one cancellation was tried, or none: its lines ran for no one.
    away = {"create": 0, "get": 0, "cancel": 2} | {lost: 1}

    def losing(name: str) -> Callable[..., Any]:
        call = getattr(BatchStore, name)

        async def lose(*args: Any, **fields: Any) -> Any:
            result = None if name == "cancel" and away[name] else await call(*args, **fields)
            if away[name] > 0:
                away[name] -= 1
                raise StoreUnavailable("away")
            return result

        return lose

    for name in away:
        monkeypatch.setattr(BatchStore, name, losing(name))
    with pytest.raises(openai.InternalServerError, match=r"If batch batch_.* was stored"):
        idle_desk.make(lines(idle_desk.front.model, 1))

    def cancelled() -> bool:
        [batch] = idle_desk.client.batches.list().data
        return batch.status in ("cancelling", "cancelled")

    until(cancelled, "the batch is cancelled")


def test_batches_are_listed_after_a_cursor(idle_desk: Desk) -> None:
    made = [idle_desk.make(lines(idle_desk.front.model, 1)).id for _ in range(5)]
    client = idle_desk.client
    assert [b.id for b in client.batches.list(limit=2)] == made[::-1]  # the client turns the pages
    page = client.batches.list(limit=2, after=made[3])
    assert ([b.id for b in page.data], page.has_more) == ([made[2], made[1]], True)


def test_another_tenants_batch_is_not_found(
    idle_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = idle_desk.make(lines(idle_desk.front.model, 1))
    for module in (routes_batches, routes_files):
        monkeypatch.setattr(module, "tenant_of", lambda request: Tenant(name="another"))
    for call in (idle_desk.client.batches.retrieve, idle_desk.client.batches.cancel):
        with pytest.raises(openai.NotFoundError, match="no such batch"):
            call(made.id)
    assert list(idle_desk.client.batches.list()) == []
    with pytest.raises(openai.BadRequestError, match="no file of yours"):
        idle_desk.client.batches.create(
            input_file_id=made.input_file_id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
        )


def test_every_key_of_a_batch_has_a_ttl(desk: Desk) -> None:
    desk.reaches(desk.make(lines(desk.front.model, 3)))
    with redis.Redis.from_url(desk.front.redis_url) as client:
        keys = list(client.scan_iter("lw:batches:*"))
        assert keys
        assert [key for key in keys if client.pttl(key) < 0] == []
