"""What every route has in common: ids of requests, HEAD, other origins, careless paths, health."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import re
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from pydantic import ValidationError

from lengthwise_queue.settings import Settings
from lengthwise_queue.tenants import keys as api_keys
from lengthwise_store.jobs import Claim, Outcome

Front = Any  # tests/queue_service/conftest.py

Until = Callable[[Callable[[], Any], str], Any]

ORIGIN = "https://chat.example.com"
MADE = re.compile(r"req_[0-9a-f]{32}")


@pytest.fixture
def open_front(make_front: Callable[..., Front]) -> Front:
    """A queue service that pages of one origin may call, with a worker."""
    front = make_front(cors_origins=f"{ORIGIN}/, https://other.example.com:8443")
    front.put_queue()
    front.worker.start()
    return front


# ------------------------------------------------------------------------------- ids of requests


def test_a_requests_id_is_returned_stored_with_the_job_logged_and_passed_to_the_worker(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    claims: list[Claim] = []
    answer = front.worker.script

    async def script(claim: Claim) -> AsyncIterator[bytes | Outcome]:
        claims.append(claim)
        async for step in answer(claim):
            yield step

    front.worker.script = script
    given = f"trace/{uuid.uuid4()}:1=a+b@c~d._-".ljust(64, "x")
    headers = {"X-Request-Id": given}
    with caplog.at_level(logging.INFO):
        chat = front.http.post("/v1/chat/completions", json=front.chat(), headers=headers)
    assert chat.headers["x-request-id"] == given
    assert front.job(chat.headers["x-lengthwise-job-id"])["request_id"] == given
    [record] = [r for r in caplog.records if r.message == "request answered"]
    assert record.__dict__["request_id"] == given
    for path, body in (
        ("/v1/jobs", {"body": front.chat()}),
        ("/v1/responses", {"model": front.model, "input": "Hi"}),
        ("/v1/completions", {"model": front.model, "prompt": "Hi", "stream": True}),
    ):
        made = front.http.post(path, json=body, headers=headers)
        assert made.headers["x-request-id"] == given, path
        front.ended(made.headers.get("x-lengthwise-job-id") or made.json()["id"])
    assert [claim.request_id for claim in claims] == [given] * 4
    with redis.Redis.from_url(front.redis_url) as client:
        key = f"*job:{chat.headers['x-lengthwise-job-id']}"
        assert client.object("encoding", client.keys(key)[0]) == b"listpack"  # else three times


@pytest.mark.parametrize(
    "given", [None, "", "two words", "a" * 65, 'quote"', "ü"], ids=lambda v: repr(v)[:12]
)
def test_without_a_usable_id_a_request_gets_a_new_one(
    shared_front: Front, given: str | None
) -> None:
    headers = {} if given is None else {b"X-Request-Id": given.encode()}
    seen = {
        shared_front.http.get("/healthz", headers=headers).headers["x-request-id"] for _ in range(2)
    }
    assert len(seen) == 2
    assert all(MADE.fullmatch(one) for one in seen)


def test_every_error_has_the_requests_id(
    make_front: Callable[..., Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    front = make_front(api_key=api_keys.new_key())
    headers = {"X-Request-Id": "mine"}
    statuses = {
        front.http.request(method, path, headers=headers).status_code: method
        for method, path in (
            ("GET", "/v1/models"),
            ("GET", "/nowhere"),
            ("DELETE", "/healthz"),
        )
    }
    assert statuses.keys() == {401, 404, 405}
    store = front.server.config.app.state.service.store

    async def fails() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(store, "check", fails)
    broken = front.http.get("/readyz", headers=headers)
    assert (broken.status_code, broken.headers["x-request-id"]) == (500, "mine")
    assert "a bug" not in broken.text


# ------------------------------------------------------------------------------- HEAD


def test_head_answers_as_get_without_a_body_on_every_route_that_has_a_get(front: Front) -> None:
    job_id = front.submit()
    front.ended(job_id)
    for path in (
        *("/healthz", "/readyz", "/health", "/metrics", "/openapi.json", "/v1/models"),
        *(f"/v1/models/{front.model}", "/v1/jobs", f"/v1/jobs/{job_id}", "/v1/files"),
        *("/v1/queues", f"/v1/queues/{front.model}", "/v1/batches", "/v1/jobs/none"),
    ):
        got, head = front.http.get(path), front.http.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        assert head.headers.get("content-type") == got.headers.get("content-type"), path
    stream = front.http.head(f"/v1/jobs/{job_id}/stream")
    assert (stream.status_code, stream.headers["content-type"]) == (
        200,
        "text/event-stream; charset=utf-8",
    )


def test_head_on_an_open_stream_returns_and_leaves_the_job_alone(idle_front: Front) -> None:
    job_id = idle_front.submit()
    assert idle_front.http.head(f"/v1/jobs/{job_id}/stream").status_code == 200
    assert idle_front.job(job_id)["state"] == "queued"


def test_head_where_there_is_no_get_is_a_405(shared_front: Front) -> None:
    answer = shared_front.http.head("/v1/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert "HEAD" in shared_front.http.delete("/v1/models").headers["allow"]


# ------------------------------------------------------------------------------- other origins


def preflight(front: Front, path: str, method: str, origin: str = ORIGIN) -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
    }
    answer: httpx.Response = front.http.options(path, headers=headers)
    return answer


def test_no_page_of_another_origin_may_call_unless_it_is_set(shared_front: Front) -> None:
    assert preflight(shared_front, "/v1/chat/completions", "POST").status_code == 405
    answer = shared_front.http.get("/healthz", headers={"Origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_page_of_an_allowed_origin_may_call_every_route(open_front: Front) -> None:
    document = open_front.http.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method in operations:
            answer = preflight(open_front, re.sub(r"{\w+}", "x", path), method.upper())
            assert answer.status_code == 200, (method, path)
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            assert "idempotency-key" in answer.headers["access-control-allow-headers"]
    assert preflight(open_front, "/v1/models", "GET", "https://evil.example").status_code == 400
    chat = open_front.http.post(
        "/v1/chat/completions", json=open_front.chat(), headers={"Origin": ORIGIN}
    )
    assert chat.headers["access-control-allow-origin"] == ORIGIN
    assert "X-Lengthwise-Job-Id" in chat.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in chat.headers
    lost = open_front.http.get("/nowhere", headers={"Origin": ORIGIN})
    assert (lost.status_code, lost.headers["access-control-allow-origin"]) == (404, ORIGIN)


@pytest.mark.parametrize("value", ["chat.example.com", "https://a/b", "https://", "null"])
def test_what_is_no_origin_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        Settings.model_validate({"redis_url": "redis://x", "cors_origins": value})


def test_origins_are_read_from_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENGTHWISE_QUEUE_CORS_ORIGINS", f"{ORIGIN}/, http://localhost:3000")
    assert Settings(redis_url="redis://x").cors_origins == (ORIGIN, "http://localhost:3000")


# ------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "path",
    [
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat/completions/",
        "/v1/chat/completions//",
        "///v1///chat///completions///",
    ],
)
def test_extra_slashes_are_forgiven(front: Front, path: str) -> None:
    url = front.url + path
    assert httpx.post(url, json=front.chat(), timeout=20).json()["choices"]


def test_extra_slashes_are_forgiven_around_names_with_slashes(front: Front) -> None:
    assert front.http.get(f"{front.url}//v1/models/{front.model}/").json()["id"] == front.model
    assert front.http.get(f"{front.url}/v1/models/").json()["object"] == "list"
    made = front.http.put(f"{front.url}/v1/queues/a//b", json={})
    assert (made.status_code, made.json()["error"]["param"]) == (400, "name")


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("POST", "/chat/completions", "/v1/chat/completions"),
        ("POST", "//chat/completions", "/v1/chat/completions"),
        ("POST", "/v1/v1/chat/completions", "/v1/chat/completions"),
        ("POST", "/api/v1/chat/completions", "/v1/chat/completions"),
        ("POST", "/openai/v1/v1/responses", "/v1/responses"),
        ("POST", "/v1/chat/completion", "/v1/chat/completions"),
        ("POST", "/v1/completion", "/v1/completions"),
        ("GET", "/models", "/v1/models"),
        ("GET", "/models/org/model-1.5", "/v1/models/org/model-1.5"),
        ("GET", "/v1/healthz", "/healthz"),
        ("POST", "/v1/embeddings", None),
        ("GET", "/favicon.ico", None),
        ("GET", "/", None),
    ],
)
def test_another_path_is_a_404_that_names_the_one_that_was_meant(
    shared_front: Front, method: str, path: str, meant: str | None
) -> None:
    answer = httpx.request(method, shared_front.url + path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "unknown_url")
    if meant is None:
        assert "openapi.json" in error["message"]
    else:
        assert f"Did you mean {method} {meant}?" in error["message"]


# ------------------------------------------------------------------------------- health


def test_clients_of_vllm_find_the_health_and_version_that_they_ask_for(
    make_front: Callable[..., Front],
) -> None:
    front = make_front(api_key=api_keys.new_key())
    for method, path in (("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")):
        answer = httpx.request(method, front.url + path)
        assert (answer.status_code, answer.content) == (200, b""), path
    version = httpx.get(f"{front.url}/version").json()
    assert version == {"version": importlib.metadata.version("lengthwise")}
    front.server.config.app.state.service.draining.set()
    assert httpx.get(f"{front.url}/health").status_code == 503


def test_an_idle_connection_outlives_those_of_load_balancers(shared_front: Front) -> None:
    # nginx and AWS keep theirs for 60 s, Google for 600 s. With uvicorn's 5 s, they sent requests
    # on closing ones.
    assert shared_front.server.config.timeout_keep_alive > 600


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux lists its timers")
def test_a_connection_that_waits_for_an_answer_is_probed_by_tcp(
    idle_front: Front, until: Until
) -> None:
    # AWS's load balancers forget one after 350 s without a byte, and the answer was lost.
    port = httpx.URL(idle_front.url).port or 80

    def probed() -> bool:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        ours = [r for r in rows if r[1].endswith(f":{port:04X}") and r[3] == "01"]
        return bool(ours) and all(r[5].startswith("02:") for r in ours)  # 02: keep-alive

    with idle_front.pending_request("/v1/chat/completions", idle_front.chat()):
        until(probed, "the timer runs")


def test_the_openapi_document_is_json(shared_front: Front) -> None:
    assert json.loads(shared_front.http.get("/openapi.json").text)["openapi"].startswith("3.")
