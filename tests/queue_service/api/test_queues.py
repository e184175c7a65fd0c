"""Queues over HTTP: modes, dead letters, redrive, and who may change them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from lengthwise_contract.explanation import Explanation
from lengthwise_contract.jobs import JobError, JobList, RedriveReport
from lengthwise_contract.queue_views import QueueView
from lengthwise_queue.tenants import keys as api_keys
from lengthwise_store.jobs import Claim, Outcome, OutcomeKind
from lengthwise_store.store import JobStore

Front = Any  # tests/queue_service/conftest.py
DeltaOf = Callable[..., bytes]
Until = Callable[[Callable[[], Any], str], Any]

REFUSED = Outcome(kind=OutcomeKind.ERROR, error=JobError(code="no", message="Not this one."))


async def refuses(_: Claim) -> AsyncIterator[bytes | Outcome]:
    yield REFUSED


def put_mode(front: Front, verb: str) -> QueueView:
    answer = front.http.post(f"/v1/queues/{front.model}/{verb}")
    assert answer.status_code == 200, answer.text
    return QueueView.model_validate(answer.json())


def failed_job(front: Front) -> str:
    """A dead letter's id."""
    script, front.worker.script = front.worker.script, refuses
    job_id = front.submit()
    assert front.ended(job_id)["state"] == "failed"
    front.worker.script = script
    return str(job_id)


# ------------------------------------------------------------------------------- modes


def test_a_paused_queue_accepts_jobs_and_serves_them_when_it_is_resumed(front: Front) -> None:
    assert put_mode(front, "pause").mode == "paused"
    job_id = front.submit()
    why = Explanation.model_validate(front.http.get(f"/v1/jobs/{job_id}/explain").json())
    assert (why.mode, why.estimated_start_ms) == ("paused", None)
    assert "paused" in why.why
    assert front.job(job_id)["state"] == "queued"
    assert put_mode(front, "resume").mode == "open"
    assert front.ended(job_id)["state"] == "succeeded"


def test_a_draining_queue_refuses_with_503_and_serves_what_it_has(
    front: Front, until: Until
) -> None:
    put_mode(front, "pause")
    job_id = front.submit()
    assert put_mode(front, "drain").mode == "draining"
    answer = front.http.post("/v1/jobs", json={"body": front.chat()})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "queue_draining"
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert front.ended(job_id)["state"] == "succeeded"
    put_mode(front, "resume")
    assert front.ended(front.submit())["state"] == "succeeded"


@pytest.mark.parametrize("verb", ["pause", "drain", "resume"])
def test_setting_a_mode_twice_is_the_same_as_once(idle_front: Front, verb: str) -> None:
    assert put_mode(idle_front, verb).mode == put_mode(idle_front, verb).mode


@pytest.mark.parametrize("verb", ["pause", "drain", "resume"])
def test_a_queue_that_does_not_exist_has_no_mode(idle_front: Front, verb: str) -> None:
    answer = idle_front.http.post(f"/v1/queues/absent/{verb}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


def test_a_queue_may_be_named_like_a_verb(idle_front: Front) -> None:
    for name in ("pause", "a/redrive"):
        assert idle_front.http.put(f"/v1/queues/{name}", json={}).status_code == 200
        answer = idle_front.http.post(f"/v1/queues/{name}/pause")
        assert (answer.json()["name"], answer.json()["mode"]) == (name, "paused")


def test_a_queue_cannot_have_the_name_of_a_subresource_of_another(idle_front: Front) -> None:
    for page, allowed in (("snapshot", "GET"), ("dead", "GET"), ("pause", "POST")):
        answer = idle_front.http.put(f"/v1/queues/a/{page}", json={})
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    answer = idle_front.http.patch("/v1/jobs/x")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, HEAD")


# ------------------------------------------------------------------------------- dead letters


def test_a_dead_letter_is_listed_and_redriven(front: Front) -> None:
    job_id = failed_job(front)
    dead = JobList.model_validate(front.http.get(f"/v1/queues/{front.model}/dead").json())
    assert [job.id for job in dead.data] == [job_id]
    assert dead.data[0].error is not None
    answer = front.http.post(f"/v1/jobs/{job_id}/redrive")
    assert answer.status_code == 200
    assert answer.json()["error"] is None
    assert front.ended(job_id)["state"] == "succeeded"
    assert front.http.get(f"/v1/queues/{front.model}/dead").json()["data"] == []


def test_a_second_redrive_changes_nothing(front: Front) -> None:
    job_id = failed_job(front)
    put_mode(front, "pause")
    for _ in range(2):
        answer = front.http.post(f"/v1/jobs/{job_id}/redrive")
        assert (answer.status_code, answer.json()["state"]) == (200, "queued")
    put_mode(front, "resume")
    front.ended(job_id)
    answer = front.http.post(f"/v1/jobs/{job_id}/redrive")
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")


def test_a_job_that_was_withdrawn_is_not_redriven(idle_front: Front) -> None:
    job_id = idle_front.submit()
    idle_front.http.delete(f"/v1/jobs/{job_id}")
    answer = idle_front.http.post(f"/v1/jobs/{job_id}/redrive")
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "not_redrivable"
    assert answer.headers["x-should-retry"] == "false"


def test_dead_letters_are_redriven_page_by_page(front: Front) -> None:
    ids = {failed_job(front) for _ in range(5)}
    reports, after = [], None
    for _ in range(10):
        params = {"limit": 2} | ({} if after is None else {"after": after})
        answer = front.http.post(f"/v1/queues/{front.model}/dead/redrive", params=params)
        reports.append(RedriveReport.model_validate(answer.json()))
        after = reports[-1].next_after
        if not reports[-1].has_more:
            break
    assert sum(report.redriven for report in reports) == 5
    assert sum(report.unreadable for report in reports) == 0
    assert {front.ended(job_id)["state"] for job_id in ids} == {"succeeded"}


@pytest.mark.parametrize(
    "path", ["/v1/jobs", "/v1/queues/{model}/dead", "/v1/queues/{model}/dead/redrive"]
)
@pytest.mark.parametrize("after", ["x", "", "WyJhIl0", "bnVsbA", "WyJhIiwxXQ", "é", "=" * 500])
def test_a_wrong_cursor_is_refused(idle_front: Front, path: str, after: str) -> None:
    method = "POST" if path.endswith("redrive") else "GET"
    path = path.replace("{model}", idle_front.model)
    answer = idle_front.http.request(method, path, params={"after": after})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_cursor"


# ------------------------------------------------------------------------------- listing


def test_each_job_is_listed_once_over_queues_and_pages(idle_front: Front) -> None:
    front = idle_front
    front.http.put("/v1/queues/another", json={})
    want = [front.submit(model=name) for name in (front.model, "another") for _ in range(5)]
    for limit in (1, 3, 10, 1000):
        found: list[str] = []
        after = None
        for _ in range(20):
            params = {"limit": limit} | ({} if after is None else {"after": after})
            page = JobList.model_validate(front.http.get("/v1/jobs", params=params).json())
            assert len(page.data) <= limit
            found += [job.id for job in page.data]
            after = page.next_after
            assert page.has_more is (after is not None)
            if after is None:
                break
        assert sorted(found) == sorted(want)


def test_a_listing_is_filtered_by_queue_and_state(idle_front: Front) -> None:
    front = idle_front
    front.http.put("/v1/queues/another", json={})
    queued, other, withdrawn = front.submit(), front.submit(model="another"), front.submit()
    front.http.post(f"/v1/jobs/{withdrawn}/cancel")

    def listed(**params: str) -> set[str]:
        return {job["id"] for job in front.http.get("/v1/jobs", params=params).json()["data"]}

    assert listed(queue="another") == {other}
    assert listed(state="queued") == {queued, other}
    assert listed(state="cancelled") == {withdrawn}
    assert listed(queue=front.model, state="queued") == {queued}
    assert front.http.get("/v1/jobs", params={"queue": "absent"}).status_code == 404
    assert front.http.get("/v1/jobs", params={"state": "lost"}).status_code == 400


def test_cancel_is_the_same_the_second_time(idle_front: Front) -> None:
    job_id = idle_front.submit()
    first, second = (idle_front.http.post(f"/v1/jobs/{job_id}/cancel") for _ in range(2))
    assert (first.status_code, first.json()["state"]) == (200, "cancelled")
    assert first.json() == second.json()


# ------------------------------------------------------------------------------- who may


def test_a_queue_is_changed_by_admins_only(
    make_front: Callable[..., Front], tmp_path: Path
) -> None:
    keys = {name: api_keys.new_key() for name in ("root", "user")}
    tenants = [
        {"name": name, "keys": [api_keys.hash_key(key)], "admin": name == "root"}
        for name, key in keys.items()
    ]
    file = tmp_path / "tenants.json"
    file.write_text(json.dumps({"tenants": tenants}))
    front = make_front(key=keys["root"], tenants_file=file)
    front.put_queue()
    user = front.client(keys["user"])
    queue = f"/v1/queues/{front.model}"
    for method, path in [
        ("PUT", queue),
        *(("POST", f"{queue}/{verb}") for verb in ("pause", "drain", "resume", "dead/redrive")),
        ("POST", "/v1/jobs/any/redrive"),
    ]:
        answer = user.request(method, path)
        assert answer.status_code == 403, path
        assert answer.json()["error"]["code"] == "admin_only"
    assert front.http.get(queue).json()["mode"] == "open"


def test_the_view_of_a_queue_shows_the_order_of_service_in_force(front: Front) -> None:
    for _ in range(3):
        front.ended(front.submit())
    front.put_queue(policy="fcfs")
    view = QueueView.model_validate(front.http.get(f"/v1/queues/{front.model}").json())
    assert (view.active_policy, view.fallback, view.mode) == ("fcfs", False, "open")
    assert view.mean_wait_seconds is not None
    assert view.mean_wait_seconds >= 0
    assert [line.tenant for line in view.tenants] == ["default"]


def test_health_reports_whether_keys_are_needed(make_front: Callable[..., Front]) -> None:
    key = api_keys.new_key()
    assert make_front().http.get("/healthz").json()["access"] == "open"
    assert make_front(key=key, api_key=key).http.get("/healthz").json()["access"] == "keys"


# ------------------------------------------------------------------------------- admission


def limited(make_front: Callable[..., Front], tmp_path: Path, **limits: Any) -> Any:
    """A service whose one tenant has these limits."""
    key = api_keys.new_key()
    tenant = {"name": "a", "keys": [api_keys.hash_key(key)], "admin": True} | limits
    file = tmp_path / "tenants.json"
    file.write_text(json.dumps({"tenants": [tenant]}))
    return make_front(key=key, tenants_file=file)


def refused(front: Front, **headers: str) -> Any:
    answer = front.http.post("/v1/jobs", json={"body": front.chat()}, headers=headers)
    assert answer.status_code == 429, answer.text
    after_s, after_ms = int(answer.headers["retry-after"]), int(answer.headers["retry-after-ms"])
    assert 1 <= after_s <= 120
    assert 1000 * (after_s - 1) < after_ms <= 1000 * after_s
    return answer.json()["error"]


def test_a_tenant_can_fill_its_share_of_the_queue_and_no_more(
    make_front: Callable[..., Front], tmp_path: Path
) -> None:
    front = limited(make_front, tmp_path, depth_share=0.5)
    front.put_queue(max_depth=4)
    for _ in range(2):
        front.submit()
    error = refused(front)
    assert error["code"] == "tenant_queue_full"
    assert "2 may" in error["message"]


def test_a_tenant_over_its_rate_gets_the_time_until_the_next_request(
    make_front: Callable[..., Front], tmp_path: Path
) -> None:
    front = limited(make_front, tmp_path, requests_per_minute=2)
    front.put_queue()
    for _ in range(2):
        front.submit()
    answer = front.http.post("/v1/jobs", json={"body": front.chat()})
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    # The next of two a minute is there after half a minute, less what has passed since.
    assert 20_000 < int(answer.headers["retry-after-ms"]) <= 33_000


def test_a_tenant_over_its_rate_finds_a_job_by_its_idempotency_key(
    make_front: Callable[..., Front], tmp_path: Path
) -> None:
    front = limited(make_front, tmp_path, requests_per_minute=1, depth_share=0.1)
    front.put_queue(max_depth=1)
    answers = [
        front.http.post("/v1/jobs", json={"body": front.chat()}, headers={"Idempotency-Key": "k"})
        for _ in range(3)
    ]
    assert [a.status_code for a in answers] == [202, 200, 200]
    assert len({a.json()["id"] for a in answers}) == 1


def test_a_job_that_would_wait_too_long_is_refused_and_an_accepted_one_is_found(
    make_front: Callable[..., Front], until: Until
) -> None:
    front = make_front()
    front.worker.slots = 1
    release = threading.Event()

    async def script(_: Claim) -> AsyncIterator[bytes | Outcome]:
        await asyncio.to_thread(release.wait, 20)
        yield b'{"choices": []}'

    front.worker.script = script
    front.put_queue(default_tokens=100, default_ms_per_token=10, max_wait_ms=2500)
    front.worker.start()
    until(
        lambda: front.http.get(f"/v1/queues/{front.model}").json()["workers"], "the worker is seen"
    )
    front.submit()
    until(lambda: front.http.get(f"/v1/queues/{front.model}").json()["in_flight"], "it runs")
    first = front.http.post(
        "/v1/jobs", json={"body": front.chat()}, headers={"Idempotency-Key": "k"}
    )
    for _ in range(2):
        front.submit()  # 1 s each: 3 s wait now
    error = refused(front)
    assert error["code"] == "predicted_wait_too_long"
    again = front.http.post(
        "/v1/jobs", json={"body": front.chat()}, headers={"Idempotency-Key": "k"}
    )
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert refused(front, **{"Idempotency-Key": "another"})["code"] == "predicted_wait_too_long"
    release.set()


def test_refused_clients_get_different_times(
    make_front: Callable[..., Front], until: Until
) -> None:
    front = make_front()
    front.worker.slots = 1
    front.put_queue(max_depth=2, default_tokens=100, default_ms_per_token=40)
    put_mode(front, "pause")
    front.worker.start()
    for _ in range(2):
        front.submit()
    until(
        lambda: front.http.get(f"/v1/queues/{front.model}").json()["workers"], "the worker is seen"
    )
    times = []
    for _ in range(4):
        answer = front.http.post("/v1/jobs", json={"body": front.chat()})
        assert answer.json()["error"]["code"] == "queue_full"
        times.append(int(answer.headers["retry-after-ms"]))
    # A job starts every 4 s: the n-th refused client gets n times that, and a little more.
    assert times == sorted(times)
    assert times[3] > times[0] + 8000


# ------------------------------------------------------------------------------- tenants' metrics


@pytest.mark.slow
def test_a_tenant_is_a_label_only_while_it_is_in_the_file(
    make_front: Callable[..., Front], tmp_path: Path, until: Until
) -> None:
    keys = {name: api_keys.new_key() for name in ("root", "user")}
    file = tmp_path / "tenants.json"

    def write(*names: str) -> None:
        tenants = [
            {"name": name, "keys": [api_keys.hash_key(keys[name])], "admin": name == "root"}
            for name in names
        ]
        file.write_text(json.dumps({"tenants": tenants}))

    write("root", "user")
    front = make_front(key=keys["root"], tenants_file=file)
    front.put_queue()
    front.client(keys["user"]).post("/v1/jobs", json={"body": front.chat()})
    depth = ("tenant_queue_depth", {"service": front.model, "tenant": "user"})
    assert front.metric(depth[0], **depth[1]) == 1
    assert front.metric("tenant_jobs_total", tenant="user", outcome="accepted") == 1
    assert (front.metric("tenants"), front.metric("open_mode")) == (2, 0)
    write("root")
    until(lambda: front.metric("tenants") == 1, "the file is read again")
    assert front.metric(depth[0], **depth[1]) == 0
    assert front.metric("tenant_queue_depth", service=front.model, tenant="other") == 1
    assert front.client(keys["user"]).get("/v1/jobs").status_code == 401
    file.write_text("tenants: [")
    until(lambda: front.metric("tenants_file_ok") == 0, "the file is found broken")
    assert front.http.get("/v1/jobs").status_code == 200


def test_openais_client_recognizes_a_wrong_key_and_a_rate_limit(
    make_front: Callable[..., Front], tmp_path: Path
) -> None:
    front = limited(make_front, tmp_path, requests_per_minute=1)
    front.put_queue()
    front.worker.start()
    client = front.openai()
    ask = {"model": front.model, "messages": [{"role": "user", "content": "Hi"}]}
    assert client.chat.completions.create(**ask).choices[0].message.content
    with pytest.raises(openai.RateLimitError) as spent:
        client.chat.completions.create(**ask)
    assert spent.value.code == "rate_limit_exceeded"
    assert 1 <= int(spent.value.response.headers["retry-after"]) <= 120
    with pytest.raises(openai.AuthenticationError) as wrong:
        client.with_options(api_key=api_keys.new_key()).models.list()
    assert wrong.value.code == "invalid_api_key"


def test_requests_without_a_key_are_counted(make_front: Callable[..., Front]) -> None:
    key = api_keys.new_key()
    front = make_front(key=key, api_key=key)
    assert front.client(None).get("/v1/models").status_code == 401
    assert front.metric("unauthorized_total") == 1


# ------------------------------------------------------------------------------- why it waits


def explained(front: Front, job_id: str) -> Explanation:
    return Explanation.model_validate(front.http.get(f"/v1/jobs/{job_id}/explain").json())


def test_explain_reports_that_predictions_do_not_count_now(idle_front: Front) -> None:
    async def suspend() -> None:
        store = JobStore(idle_front.redis_url)
        await store.set_fallback(idle_front.model, on=True)
        await store.aclose()

    job_id = idle_front.submit()
    assert "is due" in explained(idle_front, job_id).why
    asyncio.run(suspend())
    why = explained(idle_front, job_id)
    assert (why.fallback, why.policy, why.active_policy) == (
        True,
        "sjf",
        "fcfs",
    )
    assert "their quality is degraded" in why.why
    view = QueueView.model_validate(idle_front.http.get(f"/v1/queues/{idle_front.model}").json())
    assert (view.fallback, view.active_policy, view.settings.policy) == (True, "fcfs", "sjf")


def test_explain_reports_that_other_tenants_have_their_share(
    make_front: Callable[..., Front], tmp_path: Path
) -> None:
    keys = {name: api_keys.new_key() for name in ("root", "light", "heavy")}
    tenants = [
        {"name": name, "keys": [api_keys.hash_key(key)], "admin": name == "root", "weight": 2.5}
        for name, key in keys.items()
    ]
    file = tmp_path / "tenants.json"
    file.write_text(json.dumps({"tenants": tenants}))
    front = make_front(key=keys["root"], tenants_file=file)
    front.put_queue()
    light, heavy = front.client(keys["light"]), front.client(keys["heavy"])
    job_id = light.post("/v1/jobs", json={"body": front.chat()}).json()["id"]
    assert "other tenants" not in explained(front, job_id).why
    for _ in range(5):
        heavy.post("/v1/jobs", json={"body": front.chat()})
    why = explained(front, job_id)
    assert (why.tenant, why.position) == ("light", 0)
    assert "Jobs of other tenants wait too" in why.why
    assert "2.5" in why.why


def test_explain_compares_the_wait_with_first_come_first_served(front: Front) -> None:
    ids = [front.submit() for _ in range(5)]
    for job_id in ids:
        front.ended(job_id)
    front.ended(front.submit())
    why = [explained(front, job_id) for job_id in ids]
    known = [one for one in why if one.fcfs_wait_ms is not None]
    assert known
    assert all("first come, first served" in one.why for one in known)
