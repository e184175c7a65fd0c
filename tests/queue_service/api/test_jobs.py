"""Jobs over HTTP: submit, view, cancel, stream and resume, explain."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from lengthwise_contract.explanation import Explanation
from lengthwise_contract.jobs import JobError, JobView
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import Accepted, Claim, NewJob, Outcome, OutcomeKind
from lengthwise_store.store import JobStore

Front = Any  # tests/queue_service/conftest.py
DeltaOf = Callable[..., bytes]
Until = Callable[[Callable[[], Any], str], Any]
Steps = AsyncIterator[bytes | Outcome]
Event = dict[str, str]

RETRY = Outcome(kind=OutcomeKind.RETRY, error=JobError(code="engine_lost", message="It died."))


def events(text: str) -> list[Event]:
    """Parse the events of a stream, each as its fields."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        if "data" in fields:
            fields.pop("retry", None)
            found.append(fields)
    return found


def read(front: Front, job_id: str, after: str | None = None) -> list[Event]:
    headers = {} if after is None else {"Last-Event-ID": after}
    answer = front.http.get(f"/v1/jobs/{job_id}/stream", headers=headers)
    assert answer.status_code in (200, 204)
    return events(answer.text)


def test_a_job_is_accepted_and_answered(front: Front) -> None:
    answer = front.http.post("/v1/jobs", json={"body": front.chat()})
    assert answer.status_code == 202
    view = JobView.model_validate(answer.json())
    assert answer.headers["location"] == f"/v1/jobs/{view.id}"
    assert (view.queue, view.job_class, view.attempt) == (front.model, "interactive", 0)
    done = JobView.model_validate(front.ended(view.id))
    assert done.response is not None
    [choice] = done.response["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello, you"}
    assert choice["finish_reason"] == "stop"
    assert done.response["usage"]["total_tokens"] == 10


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "lost-1"}], ids=["no key", "a key"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/responses"])
def test_a_submit_that_the_connection_to_redis_sent_twice_is_answered_as_the_new_job_that_it_is(
    idle_front: Front, monkeypatch: pytest.MonkeyPatch, path: str, headers: dict[str, str]
) -> None:
    # The reply to a submit was lost, and the connection sent it again. It found its own job, which
    # passed for another request's: the job was read, and when Redis did not answer that, the client
    # got an error that named no job, while a worker ran it. A response dropped its own record.
    once = JobStore.submit

    async def twice(store: JobStore, queue: str, job: NewJob) -> Any:
        assert isinstance(await once(store, queue, job), Accepted)
        return await once(store, queue, job)

    monkeypatch.setattr(JobStore, "submit", twice)
    if path == "/v1/jobs":
        answer = idle_front.http.post(path, json={"body": idle_front.chat()}, headers=headers)
        assert answer.status_code == 202
        assert answer.json()["state"] == "queued"
        return
    body = {"model": idle_front.model, "input": "Hi", "background": True}
    response = idle_front.http.post(path, json=body, headers=headers).json()
    monkeypatch.setattr(JobStore, "submit", once)
    assert idle_front.http.get(f"{path}/{response['id']}").json()["id"] == response["id"]


def test_an_error_about_an_accepted_job_names_it(
    idle_front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers, body = {"Idempotency-Key": "named-1"}, {"body": idle_front.chat()}
    first = idle_front.http.post("/v1/jobs", json=body, headers=headers).json()

    async def away(*_: Any) -> None:
        raise StoreUnavailable("away")

    # Only the read fails, between two reads of a Redis that answers.
    monkeypatch.setattr("lengthwise_queue.api.jobs.find_job", away)
    answer = idle_front.http.post("/v1/jobs", json=body, headers=headers)
    assert answer.status_code == 503
    assert answer.headers["X-Lengthwise-Job-Id"] == first["id"]


@pytest.mark.parametrize(
    ("given", "want"),
    [({}, True), ({"stream": None}, True), ({"stream": False}, False), ({"stream": True}, True)],
    ids=["no field", "null", "false", "true"],
)
def test_a_job_streams_unless_its_body_says_otherwise(
    front: Front, given: dict[str, Any], want: bool
) -> None:
    body = front.chat(**given, extra={"deep": [1, 2.5, None]})
    job_id = front.http.post("/v1/jobs", json={"body": body}).json()["id"]
    front.ended(job_id)
    assert json.loads(front.worker.bodies[0]) == body | {"stream": want}


def test_a_job_that_does_not_stream_has_the_engines_whole_answer(front: Front) -> None:
    job = front.ended(front.submit(stream=False))
    assert job["response"]["object"] == "chat.completion"
    assert job["response"]["choices"][0]["message"]["content"] == "Hello, you"


def test_a_running_job_shows_its_answer_so_far(
    front: Front, delta_of: DeltaOf, until: Until
) -> None:
    release = threading.Event()

    async def script(claim: Claim) -> Steps:
        yield delta_of("Hel", role="assistant")
        await asyncio.to_thread(release.wait, 20)
        yield delta_of("lo", finish="stop")

    front.worker.script = script
    job_id = front.submit()
    job = until(lambda: (j := front.job(job_id))["response"] and j, "there is a first piece")
    assert job["state"] == "running"
    assert job["response"]["choices"][0]["message"]["content"] == "Hel"
    assert job["response"]["choices"][0]["finish_reason"] is None
    release.set()
    assert front.ended(job_id)["response"]["choices"][0]["message"]["content"] == "Hello"


def test_a_failed_job_has_its_error(front: Front) -> None:
    async def script(claim: Claim) -> Steps:
        error = JobError(code="bad_template", message="No.", status=400, body={"error": {}})
        yield Outcome(kind=OutcomeKind.ERROR, error=error)

    front.worker.script = script
    job = front.ended(front.submit())
    assert (job["state"], job["error"]["code"], job["error"]["status"]) == (
        "failed",
        "bad_template",
        400,
    )


# ------------------------------------------------------------------------------- idempotency


def test_the_same_key_and_request_is_the_same_job(front: Front) -> None:
    headers, body = {"Idempotency-Key": "order-1"}, {"body": front.chat()}
    first = front.http.post("/v1/jobs", json=body, headers=headers)
    front.ended(first.json()["id"])
    again = front.http.post("/v1/jobs", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["state"] == "succeeded"
    assert again.headers["location"] == first.headers["location"]
    assert len(front.worker.bodies) == 1


@pytest.mark.parametrize(
    "change",
    [{"body": {"temperature": 1}}, {"class": "batch"}, {"max_attempts": 1}],
    ids=["another body", "another class", "other attempts"],
)
def test_the_same_key_for_another_request_is_a_422(
    idle_front: Front, change: dict[str, Any]
) -> None:
    headers, body = {"Idempotency-Key": "order-1"}, {"body": idle_front.chat()}
    first = idle_front.http.post("/v1/jobs", json=body, headers=headers).json()
    other = body | change | {"body": body["body"] | change.get("body", {})}
    answer = idle_front.http.post("/v1/jobs", json=other, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "idempotency_key_reused"
    assert first["id"] in answer.json()["error"]["message"]


# ------------------------------------------------------------------------------- cancelling


def test_a_waiting_job_is_cancelled_at_once_and_once(idle_front: Front) -> None:
    job_id = idle_front.submit()
    for _ in range(2):
        answer = idle_front.http.delete(f"/v1/jobs/{job_id}")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert read(idle_front, job_id)[-1]["event"] == "end"


def test_a_running_job_is_cancelled_at_the_engine(front: Front, until: Until) -> None:
    async def script(claim: Claim) -> Steps:
        await asyncio.sleep(60)  # an engine that does not answer during the test
        yield b"{}"

    front.worker.script = script
    job_id = front.submit()
    until(lambda: front.job(job_id)["state"] == "running", "it runs")
    assert front.http.delete(f"/v1/jobs/{job_id}").json()["cancel_requested"] is True
    assert front.ended(job_id)["state"] == "cancelled"
    assert front.worker.aborted == [job_id]


@pytest.mark.parametrize("path", ["", "/stream", "/explain"])
def test_an_unknown_job_is_a_404(idle_front: Front, path: str) -> None:
    answer = idle_front.http.get(f"/v1/jobs/none{path}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "job_not_found"


# ------------------------------------------------------------------------------- the stream


def test_a_stream_has_every_chunk_and_one_end(front: Front) -> None:
    found = read(front, front.submit())
    assert [e["event"] for e in found] == ["chunk"] * 5 + ["end"]
    assert json.loads(found[-1]["data"])["state"] == "succeeded"
    assert len({e["id"] for e in found}) == len(found)


def test_resuming_a_finished_stream_at_any_point_gives_no_gap_and_no_repeat(
    front: Front, make_front: Callable[..., Front]
) -> None:
    job_id = front.submit()
    whole = read(front, job_id)
    other = make_front()  # another replica
    for cut, event in enumerate(whole):
        assert read(other, job_id, after=event["id"]) == whole[cut + 1 :]
    query = other.http.get(f"/v1/jobs/{job_id}/stream?last_event_id={whole[2]['id']}")
    assert events(query.text) == whole[3:]


def test_resuming_after_the_end_is_a_204(front: Front) -> None:
    job_id = front.submit()
    last = read(front, job_id)[-1]["id"]
    answer = front.http.get(f"/v1/jobs/{job_id}/stream", headers={"Last-Event-ID": last})
    assert answer.status_code == 204


@pytest.mark.parametrize("cut", range(6))
def test_resuming_a_running_stream_at_any_point_gives_no_gap_and_no_repeat(
    front: Front, make_front: Callable[..., Front], delta_of: DeltaOf, cut: int
) -> None:
    # The reader disconnects after `cut` events, while the engine continues, and resumes elsewhere.
    left = threading.Event()

    async def script(claim: Claim) -> Steps:
        for n in range(3):
            yield delta_of(f"before {n}")
        if cut > 3:
            yield delta_of("before 3")
            yield delta_of("before 4")
        await asyncio.to_thread(left.wait, 20)
        for n in range(3):
            yield delta_of(f"after {n}")

    front.worker.script = script
    job_id = front.submit()
    other = make_front()
    seen: list[Event] = []
    with front.http.stream("GET", f"/v1/jobs/{job_id}/stream") as answer:
        text = ""
        for line in answer.iter_lines():
            if len(seen) == min(cut, 5):
                break
            text += f"{line}\n"
            seen = events(text)
    seen = seen[:cut]
    left.set()
    seen += read(other, job_id, after=seen[-1]["id"] if seen else None)
    assert seen == read(other, job_id)
    assert [e["event"] for e in seen].count("end") == 1


@pytest.mark.slow
def test_a_new_attempt_is_an_event_that_makes_the_reader_start_over(
    front: Front, delta_of: DeltaOf
) -> None:
    async def script(claim: Claim) -> Steps:
        yield delta_of(f"attempt {claim.lease.attempt}", finish="stop")
        if claim.lease.attempt == 1:
            yield RETRY

    front.worker.script = script
    job_id = front.submit()
    found = read(front, job_id)
    assert [e["event"] for e in found] == ["chunk", "attempt", "chunk", "end"]
    assert json.loads(found[1]["data"]) == {"attempt": 2}
    message = front.job(job_id)["response"]["choices"][0]["message"]
    assert message["content"] == "attempt 2"


def test_a_reader_that_leaves_does_not_cancel_the_job(
    front: Front, delta_of: DeltaOf, until: Until
) -> None:
    release = threading.Event()

    async def script(claim: Claim) -> Steps:
        yield delta_of("Hel")
        await asyncio.to_thread(release.wait, 20)
        yield delta_of("lo")

    front.worker.script = script
    job_id = front.submit()
    with httpx.stream("GET", f"{front.url}/v1/jobs/{job_id}/stream") as answer:
        next(answer.iter_raw())
    release.set()
    assert front.ended(job_id)["state"] == "succeeded"


@pytest.mark.parametrize("bad", ["x", "1", "1-", "$", "1-1; drop", "9" * 40 + "-0", "+"])
def test_a_wrong_last_event_id_is_refused(idle_front: Front, bad: str) -> None:
    job_id = idle_front.submit()
    answer = idle_front.http.get(f"/v1/jobs/{job_id}/stream", headers={"Last-Event-ID": bad})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "Last-Event-ID"


def test_a_stopping_process_sends_its_readers_elsewhere(
    front: Front, make_front: Callable[..., Front], delta_of: DeltaOf
) -> None:
    release = threading.Event()

    async def script(claim: Claim) -> Steps:
        yield delta_of("Hel")
        await asyncio.to_thread(release.wait, 20)
        yield delta_of("lo")

    front.worker.script = script
    leaving, staying = make_front(), make_front()
    job_id = front.submit()
    text = ""
    with leaving.http.stream("GET", f"/v1/jobs/{job_id}/stream") as answer:
        for piece in answer.iter_text():
            text += piece
            if "Hel" in text:
                leaving.server.should_exit = True
    seen = events(text)
    assert [e["event"] for e in seen] == ["chunk"]
    release.set()
    rest = read(staying, job_id, after=seen[-1]["id"])
    assert [e["event"] for e in rest] == ["chunk", "end"]


# ------------------------------------------------------------------------------- why it waits


def test_explain_returns_place_due_time_and_reason(idle_front: Front) -> None:
    idle_front.put_queue(default_tokens=100, default_ms_per_token=10, overtake_factor=2)
    first, second = idle_front.submit(), idle_front.submit()
    explained = Explanation.model_validate(idle_front.http.get(f"/v1/jobs/{second}/explain").json())
    assert (explained.position, explained.tokens_ahead) == (1, 100)
    assert explained.due_ms == pytest.approx(explained.accepted_ms + 2 * 100 * 10, abs=0.01)
    assert explained.prediction is None
    assert explained.estimated_start_ms is None
    assert "1 of its tenant's jobs is ahead" in explained.why
    assert "No worker serves this queue" in explained.why
    assert "next" in idle_front.http.get(f"/v1/jobs/{first}/explain").json()["why"]


def test_explain_estimates_the_start_by_the_workers_slots(
    make_front: Callable[..., Front], until: Until
) -> None:
    front = make_front()
    front.put_queue(default_tokens=100, default_ms_per_token=10)
    front.worker.slots = 4

    async def script(claim: Claim) -> Steps:
        await asyncio.sleep(60)  # an engine that does not answer during the test
        yield b"{}"

    front.worker.script = script
    front.worker.start()
    for _ in range(4):
        front.submit()
    queue = f"/v1/queues/{front.model}"
    until(lambda: front.http.get(queue).json()["in_flight"] == 4, "all slots are taken")
    front.submit()
    job_id = front.submit()
    now_ms = front.http.get(f"{queue}/snapshot").json()["now_ms"]
    explained = Explanation.model_validate(front.http.get(f"/v1/jobs/{job_id}/explain").json())
    assert explained.estimated_start_ms is not None
    # 100 tokens ahead, 10 ms a token, 4 slots: 250 ms after the answer was made.
    assert explained.estimated_start_ms >= now_ms + 250
    assert "1 of its tenant's jobs is ahead" in explained.why


def test_explain_of_a_finished_job_has_its_state(front: Front) -> None:
    job_id = front.submit()
    front.ended(job_id)
    explained = front.http.get(f"/v1/jobs/{job_id}/explain").json()
    assert explained["position"] is None
    assert "succeeded" in explained["why"]


# ------------------------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"class": "vip"}, "class"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"delay_ms": -1}, "delay_ms"),
        ({"ttl_ms": 0}, "ttl_ms"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"body": None}, "body"),
        ({"body": {"model": "m"}}, "body.messages"),
        ({"body": {"model": "nope", "messages": [{"role": "user", "content": ""}]}}, "model"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_job_is_refused_with_the_field(
    idle_front: Front, change: dict[str, Any], param: str
) -> None:
    answer = idle_front.http.post("/v1/jobs", json={"body": idle_front.chat()} | change)
    assert answer.status_code == (404 if param == "model" else 400)
    assert answer.json()["error"]["param"] == param
    assert idle_front.http.get(f"/v1/queues/{idle_front.model}").json()["accepted"] == 0


@pytest.mark.parametrize("key", ["", "k" * 256], ids=["empty", "too long"])
def test_a_wrong_idempotency_key_is_refused(idle_front: Front, key: str) -> None:
    body = {"body": idle_front.chat()}
    answer = idle_front.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "Idempotency-Key"


def test_a_job_in_a_class_is_due_later_by_its_offset(idle_front: Front) -> None:
    body = {"body": idle_front.chat()}
    due = {}
    for name in ("interactive", "batch"):
        job = idle_front.http.post("/v1/jobs", json=body | {"class": name}).json()
        due[name] = job["due_ms"] - job["accepted_ms"]
    assert due["batch"] - due["interactive"] == pytest.approx(600_000, abs=0.01)
