"""Queues over HTTP: their settings, their removal, and queues that no worker serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.queue_views import WorkerView
from lengthwise_store.store import JobStore

Front = Any  # tests/queue_service/conftest.py


def patch(front: Front, changes: Any, status: int = 200) -> dict[str, Any]:
    answer = front.http.patch(f"/v1/queues/{front.model}", json=changes)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def with_store(front: Front, act: Callable[[JobStore], Any]) -> None:
    async def run() -> None:
        store = JobStore(front.redis_url)
        await act(store)
        await store.aclose()

    asyncio.run(run())


# ------------------------------------------------------------------------------- settings


def test_a_patch_changes_what_it_names_and_null_is_the_default(idle_front: Front) -> None:
    idle_front.put_queue(max_depth=500, policy="fcfs")
    view = patch(idle_front, {"max_wait_ms": 4000, "policy": None})
    want = QueueSettings(max_depth=500, max_wait_ms=4000)
    assert QueueSettings.model_validate(view["settings"]) == want
    assert view["settings_set"] == ["max_depth", "max_wait_ms"]
    assert view["active_policy"] == "sjf"
    assert patch(idle_front, {"min_rank_accuracy": 0})["settings"]["min_rank_accuracy"] is None
    assert patch(idle_front, {})["settings"]["max_depth"] == 500


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"max_depth": 0}, "max_depth"),
        ({"max_deptj": 5}, "max_deptj"),
        ({"classes": [{"name": "a", "offset_ms": -1}]}, "classes.0.offset_ms"),
        ({"tokenizer": "/no/such/file"}, "tokenizer"),
        ({"policy": ["sjf"]}, "policy"),
        ([1], None),
        ({"max_wait_ms": 1e300}, "max_wait_ms"),
    ],
)
def test_a_wrong_patch_is_refused_whole_and_names_the_field(
    idle_front: Front, changes: Any, param: str | None
) -> None:
    sent = changes | {"overtake_factor": 1.0} if isinstance(changes, dict) else changes
    assert patch(idle_front, sent, 400)["error"]["param"] == param
    view = idle_front.http.get(f"/v1/queues/{idle_front.model}").json()
    assert view["settings_set"] == []


def test_a_patch_creates_nothing(idle_front: Front) -> None:
    answer = idle_front.http.patch("/v1/queues/typo", json={"max_depth": 5})
    assert answer.status_code == 404
    assert len(idle_front.http.get("/v1/queues").json()["data"]) == 1


def test_a_put_keeps_what_the_workers_published(idle_front: Front) -> None:
    async def publish(store: JobStore) -> None:
        await store.publish_engine_facts(idle_front.model, "w", {"max_model_len": 2048})

    with_store(idle_front, publish)
    idle_front.put_queue(max_depth=500)
    idle_front.put_queue(policy="fcfs")
    view = idle_front.http.get(f"/v1/queues/{idle_front.model}").json()
    assert view["published"] == {"max_model_len": 2048}
    assert view["settings_set"] == ["policy"]
    assert view["settings"]["max_model_len"] == 2048
    [model] = idle_front.http.get("/v1/models").json()["data"]
    assert model["max_model_len"] == 2048


def test_a_queue_can_be_created_only_if_there_is_none(idle_front: Front) -> None:
    path = f"/v1/queues/{idle_front.model}"
    only_new = {"If-None-Match": "*"}
    refused = idle_front.http.put(path, json={"max_depth": 5}, headers=only_new)
    assert (refused.status_code, refused.json()["error"]["code"]) == (412, "queue_exists")
    assert idle_front.http.get(path).json()["settings_set"] == []
    made = idle_front.http.put("/v1/queues/other", json={"max_depth": 5}, headers=only_new)
    assert (made.status_code, made.json()["settings_set"]) == (200, ["max_depth"])


# ------------------------------------------------------------------------------- removal


def test_an_empty_queue_is_removed_and_can_be_made_again(idle_front: Front) -> None:
    path = f"/v1/queues/{idle_front.model}"
    answer = idle_front.http.delete(path)
    assert answer.json() == {"name": idle_front.model, "deleted": True}
    assert idle_front.http.delete(path).status_code == 404
    assert idle_front.http.get("/v1/models").json()["data"] == []
    refused = idle_front.http.post("/v1/chat/completions", json=idle_front.chat())
    assert refused.json()["error"]["code"] == "model_not_found"
    idle_front.put_queue()
    assert idle_front.submit()


def test_a_queue_in_use_is_removed_only_by_force_and_its_clients_are_told(
    front: Front, until: Any
) -> None:
    path = f"/v1/queues/{front.model}"
    until(lambda: front.http.get(path).json()["workers"], "the worker is seen")
    refused = front.http.delete(path)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "queue_in_use")
    assert "1 workers serve it" in refused.json()["error"]["message"]
    assert refused.headers["x-should-retry"] == "false"
    front.http.post(f"{path}/pause")
    job_id = front.submit()
    with front.http.stream("GET", f"/v1/jobs/{job_id}/stream") as stream:
        assert front.http.delete(f"{path}?force=true").status_code == 200
        assert '"state":"cancelled"' in stream.read().decode().replace(" ", "")
    assert front.http.get(f"/v1/jobs/{job_id}").status_code == 404
    assert front.http.get("/v1/queues").json()["data"] == []


# ------------------------------------------------------------------------------- workers


def test_models_tell_how_many_workers_serve_them_and_when_they_were_made(
    front: Front, until: Any
) -> None:
    def workers() -> Any:
        return front.http.get(f"/v1/models/{front.model}").json()["lengthwise"]["workers"]

    until(lambda: workers() == 1, "the worker is seen")
    front.http.put("/v1/queues/nobody", json={})
    models = {m.id: m for m in front.openai().models.list()}
    assert models["nobody"].lengthwise == {"workers": 0}
    assert 0 <= models["nobody"].created - models[front.model].created < 60
    assert models[front.model].created > 1_700_000_000


def test_a_queue_without_a_worker_refuses_if_it_is_set_to(
    idle_front: Front, redis_url: str, until: Any
) -> None:
    assert idle_front.submit()  # by default it waits
    idle_front.put_queue(no_workers="refuse")
    with pytest.raises(openai.InternalServerError) as info:
        idle_front.openai().chat.completions.create(**idle_front.chat())
    assert (info.value.status_code, info.value.code) == (503, "no_workers")
    assert 30 <= int(info.value.response.headers["retry-after"]) <= 34
    assert "No worker serves" in info.value.message
    refused = idle_front.http.post("/v1/jobs", json={"body": idle_front.chat()})
    assert refused.status_code == 503

    async def beat(store: JobStore) -> None:
        view = WorkerView(id="w", slots=1, running=0, engine="test", seen_ms=0)
        await store.beat(idle_front.model, worker=view, leases=[])

    with_store(idle_front, beat)
    idle_front.http.get("/v1/models")  # reads the queues now
    assert idle_front.submit()


def test_a_repeated_request_finds_its_job_though_the_queue_refuses_new_ones(
    idle_front: Front,
) -> None:
    def submit(key: str) -> Any:
        headers = {"Idempotency-Key": key}
        return idle_front.http.post("/v1/jobs", json={"body": idle_front.chat()}, headers=headers)

    first = submit("k")
    idle_front.put_queue(no_workers="refuse")
    again = submit("k")
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert (submit("other").status_code, submit("other").json()["error"]["code"]) == (
        503,
        "no_workers",
    )
