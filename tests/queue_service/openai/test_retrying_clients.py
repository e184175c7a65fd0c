"""Official clients that give up waiting and send the request again: they find their job."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.waiting import eventually_async

from lengthwise_store.jobs import Claim, Outcome

Front = Any  # tests/queue_service/conftest.py
DeltaOf = Callable[..., bytes]
Until = Callable[[Callable[[], Any], str], Any]

USER: Any = [{"role": "user", "content": "Hi"}]

#: The clients wait this long for an answer, s; Node's own limit is 300 s.
PATIENCE_S = 1.0

#: openai-node with a key for every request, which stays the same when a request is repeated.
NODE = """
import OpenAI from "openai";

class KeyedOpenAI extends OpenAI {
  idempotencyHeader = "Idempotency-Key";
}

const [baseURL, model, timeout] = process.argv.slice(2);
const limits = { timeout: Number(timeout), maxRetries: 20 };
const client = new KeyedOpenAI({ baseURL, apiKey: "any", ...limits });
const messages = [{ role: "user", content: "Hi" }];
const plain = await client.chat.completions.create({ model, messages });
const made = await client.responses.create({ model, input: "Hi" });
let streamed = "";
for await (const part of await client.chat.completions.create({ model, messages, stream: true })) {
  streamed += part.choices[0]?.delta?.content ?? "";
}
console.log(JSON.stringify([plain.choices[0].message.content, made.output_text, streamed]));
"""


class HeldBack:
    """An engine that answers when the test lets it."""

    def __init__(self, front: Front) -> None:
        self.released = threading.Event()
        self._answer = front.worker.script
        front.worker.script = self.script

    async def script(self, claim: Claim) -> AsyncIterator[bytes | Outcome]:
        await eventually_async(self.released.is_set, "the test lets it answer")
        async for step in self._answer(claim):
            yield step


@pytest.fixture
def held_back(front: Front) -> Iterator[HeldBack]:
    engine = HeldBack(front)
    yield engine
    engine.released.set()


def counted(front: Front, outcome: str) -> int:
    return int(front.metric("requests_total", service=front.model, outcome=outcome))


@pytest.mark.slow
def test_a_client_with_a_key_that_stops_waiting_finds_its_job_again(
    front: Front, held_back: HeldBack, until: Until
) -> None:
    answers: list[Any] = []

    def ask() -> None:
        with openai.OpenAI(
            base_url=f"{front.url}/v1", api_key="any", timeout=PATIENCE_S, max_retries=20
        ) as client:
            answers.append(
                client.chat.completions.create(
                    model=front.model, messages=USER, extra_headers={"Idempotency-Key": "k1"}
                )
            )

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: counted(front, "client_disconnected") >= 2, "it gave up twice")
    held_back.released.set()
    thread.join(30)
    assert answers[0].choices[0].message.content == "Hello, you"
    assert len(front.worker.bodies) == 1
    assert front.http.get(f"/v1/queues/{front.model}").json()["accepted"] == 1


@pytest.mark.slow
def test_without_a_key_each_repetition_is_a_job_and_the_ones_before_are_cancelled(
    front: Front, held_back: HeldBack, until: Until
) -> None:
    with (
        openai.OpenAI(
            base_url=f"{front.url}/v1", api_key="any", timeout=PATIENCE_S, max_retries=1
        ) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        client.chat.completions.create(model=front.model, messages=USER)
    view = f"/v1/queues/{front.model}"
    until(lambda: front.http.get(view).json()["cancelled"] == 2, "both jobs are cancelled")


@pytest.fixture(scope="session")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with openai-node, and a script that uses it."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no Node.js")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    (folder / "client.js").write_text(NODE)
    made = subprocess.run(
        [npm, "install", "--silent", "--no-audit", "--no-fund", "openai@6"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if made.returncode != 0:
        pytest.skip(f"npm cannot install openai: {made.stderr[-200:]}")
    return folder


@pytest.mark.slow
@pytest.mark.clients
def test_openai_node_with_a_key_for_every_request_waits_longer_than_its_own_limit(
    front: Front, held_back: HeldBack, node_client: Path, until: Until
) -> None:
    # Node's fetch gives up after 300 s without headers, and each retry was a new job at the back.
    limit_ms, node = str(int(PATIENCE_S * 1000)), shutil.which("node") or "node"
    with subprocess.Popen(
        [node, "client.js", f"{front.url}/v1", front.model, limit_ms],
        cwd=node_client,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(lambda: counted(front, "client_disconnected") >= 2, "it gave up twice")
        held_back.released.set()
        shown, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert json.loads(shown) == ["Hello, you", "Hello, you", "Hello, you"]
    assert len(front.worker.bodies) == 3
