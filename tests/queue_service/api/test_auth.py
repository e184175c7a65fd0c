"""No tenant sees, cancels, streams, explains, lists or redrives what belongs to another tenant.

The routes come from the service's OpenAPI document, so that a new route cannot be forgotten: one
with an unknown path parameter fails these tests until `things` names an object for it.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from lengthwise_contract.jobs import JobError, JobView
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.queue_views import SnapshotView, TenantQueueView, WorkerView
from lengthwise_queue.app import create_app
from lengthwise_queue.settings import Settings
from lengthwise_queue.tenants import keys as api_keys
from lengthwise_store.jobs import NewJob, Outcome, OutcomeKind
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore

Front = Any  # tests/queue_service/conftest.py

#: Routes that need no key: those for the platform that runs the service.
OPEN = {"/healthz", "/readyz", "/metrics", "/health", "/ping", "/version"}

OPERATIONS = sorted(
    (method.upper(), path)
    for path, methods in create_app(Settings()).openapi()["paths"].items()
    for method in methods
)
SECURED = [(method, path) for method, path in OPERATIONS if path not in OPEN]
NAMES = [" ".join(one) for one in SECURED]
ABOUT_A_MODEL = [(m, p) for m, p in SECURED if "{name}" in p or "{model}" in p]

ALICE, BOB, ROOT = (api_keys.new_key() for _ in range(3))

#: Part of every prompt of Alice's.
SECRET = "alices-secret-words"


@dataclass
class House:
    """A service with three tenants, and one of each thing that belongs to Alice."""

    front: Front
    alice: httpx.Client
    bob: httpx.Client
    root: httpx.Client
    jobs: dict[str, str]  #: State -> id of a job of Alice's.
    things: dict[str, str]  #: Path parameter -> id of a thing of Alice's.

    def paths(self, path: str) -> Iterator[tuple[str, str]]:
        """The path for each of Alice's objects that it can name, and for a missing object."""
        path = path.replace("{name}", self.front.model).replace("{model}", self.front.model)
        missing = path
        hers = [path]
        if "{job_id}" in path:
            missing = path.replace("{job_id}", str(uuid.uuid4()))
            hers = [path.replace("{job_id}", job_id) for job_id in self.jobs.values()]
        for name, known in self.things.items():
            missing = missing.replace(f"{{{name}}}", f"{known[:-4]}0000")
            hers = [one.replace(f"{{{name}}}", known) for one in hers]
        assert "{" not in missing, f"add an object for {path} to `things`"
        return iter([(one, missing) for one in hers])


def tenants_file(path: Path) -> Path:
    tenants = [
        {"name": "alice", "keys": [api_keys.hash_key(ALICE)]},
        {"name": "bob", "keys": [api_keys.hash_key(BOB)]},
        {"name": "root", "keys": [api_keys.hash_key(ROOT)], "admin": True},
    ]
    path.write_text(json.dumps({"tenants": tenants}))
    return path


@pytest.fixture(scope="module")
def house(valkey_port: int, tmp_path_factory: pytest.TempPathFactory, front_class: Any) -> Any:
    """One for all tests here: no test can change what belongs to Alice."""
    url = f"redis://127.0.0.1:{valkey_port}/2"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    file = tenants_file(tmp_path_factory.mktemp("tenants") / "tenants.json")
    front = front_class(url, key=ROOT, tenants_file=file)
    front.put_queue()
    alice, bob = front.client(ALICE), front.client(BOB)

    def submit(**fields: Any) -> str:
        body = front.chat(messages=[{"role": "user", "content": SECRET}])
        answer = alice.post("/v1/jobs", json={"body": body, **fields})
        assert answer.status_code == 202
        return str(answer.json()["id"])

    jobs = {}
    for state in ("failed", "running"):
        jobs[state] = submit()
        asyncio.run(_claim(url, front.model, fail=state == "failed"))
    jobs["queued"] = submit()
    jobs["scheduled"] = submit(delay_ms=3_600_000)
    jobs["cancelled"] = submit()
    alice.delete(f"/v1/jobs/{jobs['cancelled']}")
    line = json.dumps(
        {
            "custom_id": "1",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": front.chat(messages=[{"role": "user", "content": SECRET}]),
        }
    )
    uploaded = alice.post(
        "/v1/files", files={"file": (f"{SECRET}.jsonl", line)}, data={"purpose": "batch"}
    )
    batch = alice.post(
        "/v1/batches",
        json={
            "input_file_id": uploaded.json()["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    )
    response = alice.post(
        "/v1/responses", json={"model": front.model, "input": SECRET, "background": True}
    )
    things = {
        "file_id": uploaded.json()["id"],
        "batch_id": batch.json()["id"],
        "response_id": response.json()["id"],
    }
    yield House(front, alice, bob, front.http, jobs, things)
    front.close()


async def _claim(url: str, queue: str, *, fail: bool) -> None:
    """Take the next job, and leave it running, or let it fail for good."""
    # No worker sends heartbeats, so a lease of the usual length would expire during these tests.
    store = JobStore(url, StoreSettings(lease_ms=3_600_000))
    worker = WorkerView(id="w", slots=1, running=0, engine="none", seen_ms=0)
    await store.beat(queue, worker=worker, leases=[])
    [claim] = await store.claim(queue, worker_id="w", count=1)
    if fail:
        error = JobError(code="refused", message=SECRET)
        await store.finish(
            queue, claim.lease, Outcome(kind=OutcomeKind.ERROR, error=error), worker_id="w"
        )
    await store.aclose()


def revealed(answer: httpx.Response) -> tuple[int, bytes, list[tuple[str, str]]]:
    """What a response reveals: its status, body and headers, but for the date and its own id."""
    own = ("date", "x-request-id")
    headers = sorted((k, v) for k, v in answer.headers.items() if k not in own)
    return answer.status_code, answer.content, headers


def ask(client: httpx.Client, method: str, path: str) -> httpx.Response:
    return client.request(method, path, json={} if method in ("POST", "PUT") else None)


@pytest.mark.parametrize(("method", "path"), SECURED, ids=NAMES)
def test_no_route_reveals_what_belongs_to_another_tenant(
    house: House, method: str, path: str
) -> None:
    before = _all_of_alices(house)
    paths = list(house.paths(path))
    assert paths
    for hers, missing in paths:
        answer = ask(house.bob, method, hers)
        if hers != missing:
            want = (403, 404)
            assert answer.status_code in want
            assert revealed(answer) == revealed(ask(house.bob, method, missing))
        for name in (*house.jobs.values(), *house.things.values()):
            assert name not in answer.text.replace(hers, "")
        assert SECRET not in answer.text
    assert _all_of_alices(house) == before


def _all_of_alices(house: House) -> dict[str, Any]:
    """Everything that Bob could have changed."""
    jobs = {i: house.alice.get(f"/v1/jobs/{i}").json() for i in house.jobs.values()}
    file = house.alice.get(f"/v1/files/{house.things['file_id']}").json()
    batch = house.alice.get(f"/v1/batches/{house.things['batch_id']}").json()
    response = house.alice.get(f"/v1/responses/{house.things['response_id']}").json()
    return {"jobs": jobs, "file": file, "cancelled": batch["cancelling_at"], "response": response}


@pytest.mark.parametrize(("method", "path"), SECURED, ids=NAMES)
@pytest.mark.parametrize("key", [None, api_keys.new_key(), "x"], ids=["none", "unknown", "short"])
def test_every_route_needs_a_key(house: House, method: str, path: str, key: str | None) -> None:
    with httpx.Client(
        base_url=house.front.url,
        headers={} if key is None else {"Authorization": f"Bearer {key}"},
        timeout=20,
    ) as stranger:
        for hers, _ in house.paths(path):
            answer = ask(stranger, method, hers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
            assert "API key" in error["message"]
            assert not key or len(key) < 9 or key not in answer.text


@pytest.mark.parametrize("path", sorted(OPEN))
def test_health_and_metrics_need_no_key_and_reveal_no_job(house: House, path: str) -> None:
    answer = httpx.get(house.front.url + path)
    assert answer.status_code == 200
    for name in (*house.jobs.values(), *house.things.values(), SECRET):
        assert name not in answer.text


def test_a_key_is_accepted_in_every_case_of_the_scheme(house: House) -> None:
    headers = {"Authorization": f"bearer {BOB}"}
    assert httpx.get(f"{house.front.url}/v1/models", headers=headers).status_code == 200
    for wrong in (f"Basic {BOB}", BOB, f"Bearer {BOB}x", "Bearer"):
        headers = {"Authorization": wrong}
        assert httpx.get(f"{house.front.url}/v1/models", headers=headers).status_code == 401


def test_a_tenant_can_do_all_that_with_its_own_jobs(house: House) -> None:
    queued = house.jobs["queued"]
    assert house.alice.get(f"/v1/jobs/{queued}").status_code == 200
    assert house.alice.get(f"/v1/jobs/{queued}/explain").status_code == 200
    listed = house.alice.get("/v1/jobs").json()
    assert {job["id"] for job in listed["data"]} >= set(house.jobs.values())
    dead = house.alice.get(f"/v1/queues/{house.front.model}/dead").json()
    assert [job["id"] for job in dead["data"]] == [house.jobs["failed"]]
    line = SnapshotView.model_validate(
        house.alice.get(f"/v1/queues/{house.front.model}/snapshot").json()
    )
    assert queued in [entry.id for entry in line.waiting]


def test_an_admin_sees_the_jobs_of_all_tenants(house: House) -> None:
    job = JobView.model_validate(house.root.get(f"/v1/jobs/{house.jobs['queued']}").json())
    assert job.tenant == "alice"
    listed = house.root.get("/v1/jobs", params={"tenant": "alice"}).json()["data"]
    assert {one["id"] for one in listed} >= set(house.jobs.values())
    assert house.root.get("/v1/jobs").json()["data"] == []
    dead = house.root.get(f"/v1/queues/{house.front.model}/dead").json()["data"]
    assert [one["id"] for one in dead] == [house.jobs["failed"]]
    line = house.root.get(f"/v1/queues/{house.front.model}/snapshot").json()
    assert {entry["tenant"] for entry in line["waiting"]} == {"alice"}


def test_a_tenant_that_names_another_is_refused_whether_that_exists_or_not(house: House) -> None:
    for path in ("/v1/jobs", f"/v1/queues/{house.front.model}/dead"):
        answers = [house.bob.get(path, params={"tenant": t}) for t in ("alice", "unknown")]
        assert [a.status_code for a in answers] == [403, 403]
        assert revealed(answers[0]) == revealed(answers[1])
        assert house.bob.get(path, params={"tenant": "bob"}).status_code == 200


def test_a_tenant_sees_its_own_part_of_a_queue(house: House) -> None:
    raw = house.bob.get(f"/v1/queues/{house.front.model}").json()
    view = TenantQueueView.model_validate(raw)
    assert (view.depth, view.scheduled, view.dead) == (0, 0, 0)
    assert set(raw) == set(TenantQueueView.model_fields)
    hers = house.alice.get(f"/v1/queues/{house.front.model}").json()
    assert (hers["scheduled"], hers["dead"]) == (1, 1)


def test_the_same_idempotency_key_of_two_tenants_names_two_jobs(house: House) -> None:
    body, headers = {"body": house.front.chat()}, {"Idempotency-Key": "same"}
    ids: dict[httpx.Client, set[str]] = {}
    for who in (house.alice, house.bob, house.alice):
        ids.setdefault(who, set()).add(
            who.post("/v1/jobs", json=body, headers=headers).json()["id"]
        )
    assert [len(found) for found in ids.values()] == [1, 1]
    assert not ids[house.alice] & ids[house.bob]
    for who in (house.alice, house.bob):
        [own] = ids[who]
        who.delete(f"/v1/jobs/{own}")


#: Commands of a search for a job; the others are the test's own.
READS = {"cmdstat_hget", "cmdstat_hmget", "cmdstat_hgetall", "cmdstat_hkeys", "cmdstat_hexists"}


def test_a_search_for_anothers_job_costs_as_much_as_one_for_no_job(quiet_redis_url: str) -> None:
    # Round trips and commands are counted, because times depend on the load of the machine.
    async def body() -> None:
        store = JobStore(quiet_redis_url)
        with redis.Redis.from_url(quiet_redis_url) as admin:
            for n in range(3):
                await store.put_queue(f"q{n}", QueueSettings())
            await store.submit("q1", _job("0a", "alice"))
            costs = []
            for job_id in ("0a", "0b"):
                admin.config_resetstat()
                assert await store.find(job_id, tenant="bob") is None
                stats = admin.info("commandstats")
                costs.append({k: v["calls"] for k, v in stats.items() if k in READS})
        assert costs[0] == costs[1]
        assert sum(costs[0].values()) > 0
        found = await store.find("0a", tenant="alice")
        assert found is not None
        await store.aclose()

    asyncio.run(body())


def _job(job_id: str, tenant: str) -> NewJob:
    return NewJob(
        id=job_id,
        endpoint="/v1/chat/completions",
        body=b"{}",
        job_class="interactive",
        slack_ms=0,
        predicted_tokens=1,
        predicted_ms=1,
        prediction=None,
        max_attempts=1,
        delay_ms=0,
        ttl_ms=60_000,
        max_depth=10,
        tenant=tenant,
    )


# ------------------------------------------------------------------------------- services


@pytest.fixture
def two_models(make_front: Callable[..., Front], tmp_path: Path) -> tuple[Front, httpx.Client]:
    """A service with two models, and a client of a tenant that may use one of them."""
    tenants = [
        {"name": "root", "keys": [api_keys.hash_key(ROOT)], "admin": True},
        {"name": "bob", "keys": [api_keys.hash_key(BOB)], "services": ["open/*"]},
    ]
    file = tmp_path / "tenants.json"
    file.write_text(json.dumps({"tenants": tenants}))
    front = make_front(key=ROOT, tenants_file=file)
    for name in ("open/small", "secret"):
        front.http.put(f"/v1/queues/{name}", json={}).raise_for_status()
    return front, front.client(BOB)


def test_a_tenant_sees_only_the_models_it_may_use(
    two_models: tuple[Front, httpx.Client],
) -> None:
    front, bob = two_models
    assert [m["id"] for m in bob.get("/v1/models").json()["data"]] == ["open/small"]
    assert [q["name"] for q in bob.get("/v1/queues").json()["data"]] == ["open/small"]
    assert len(front.http.get("/v1/models").json()["data"]) == 2


@pytest.mark.parametrize(
    ("method", "path"),
    ABOUT_A_MODEL,
    ids=[" ".join(one) for one in ABOUT_A_MODEL],
)
def test_a_model_that_a_tenant_may_not_use_does_not_exist_for_it(
    two_models: tuple[Front, httpx.Client], method: str, path: str
) -> None:
    _, bob = two_models
    answers = [
        ask(bob, method, path.replace("{name}", name).replace("{model}", name))
        for name in ("secret", "absent")
    ]
    assert answers[0].status_code in (403, 404)
    assert answers[0].status_code == answers[1].status_code
    assert answers[0].text.replace("secret", "absent") == answers[1].text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/jobs"])
def test_a_model_that_a_tenant_may_not_use_accepts_none_of_its_jobs(
    two_models: tuple[Front, httpx.Client], path: str
) -> None:
    front, bob = two_models
    texts = []
    for name in ("secret", "absent"):
        body: dict[str, Any] = front.chat(model=name)
        answer = bob.post(path, json={"body": body} if path == "/v1/jobs" else body)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"
        texts.append(answer.text.replace("secret", "absent"))
    assert texts[0] == texts[1]
