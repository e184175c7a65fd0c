"""The operator's side of the queue service's API, against the real service on a real Valkey."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from lengthwise_operator.clients.predictors import PredictorClient, predictor_facts
from lengthwise_operator.clients.queue_service import QueueServiceClient
from lengthwise_operator.errors import Refused, Unreachable
from lengthwise_operator.metrics import OperatorMetrics
from lengthwise_operator.observed import PredictorFacts
from lengthwise_operator.queue_plan import queue_settings
from lengthwise_queue.__main__ import make_server
from lengthwise_queue.settings import Settings

if TYPE_CHECKING:
    from tests.operator.conftest import MakeService


@pytest.fixture
def url(redis_url: str) -> Iterator[str]:
    """A queue service, as the operator reaches it."""
    server = make_server(Settings(redis_url=redis_url, port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    ends = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < ends
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


def talk(url: str, words: Callable[[QueueServiceClient], Awaitable[Any]]) -> Any:
    """Run a conversation with the queue service."""

    async def run() -> Any:
        service = QueueServiceClient(url, None, OperatorMetrics())
        try:
            return await words(service)
        finally:
            await service.aclose()

    return asyncio.run(run())


def test_what_a_spec_says_is_what_the_queue_service_takes(url: str, service: MakeService) -> None:
    # The two sides name the settings by themselves: here is where they would come apart.
    made = service(
        model={"uri": "hf://o/m", "name": "org/m-1.5", "maxModelLen": 4096},
        queue={
            "policy": "shadow",
            "overtakeFactor": 2.5,
            "maxDepth": 7,
            "requestTTL": "90s",
            "classes": [{"name": "fast"}, {"name": "slow", "offset": "1h"}],
        },
    )

    async def words(queues: QueueServiceClient) -> Any:
        await queues.put(made.queue, queue_settings(made))
        return await queues.read_all()

    found = talk(url, words)["org/m-1.5"]
    sent = queue_settings(made)
    assert {name: found.settings[name] for name in sent} == sent
    assert found.active_policy == "shadow"
    assert (found.mode, found.depth, found.workers, found.backlog_s) == ("open", 0, 0, None)
    assert {"min_rank_accuracy", "predictor_url"} <= set(found.settings)


def test_settings_that_are_not_spoken_of_stay_as_they_are_at_that_moment(url: str) -> None:
    # The operator used to put back what it had seen up to 5 s before: `calibrate`, turned off by
    # hand just before a change of the manifest, was on again.
    async def words(queues: QueueServiceClient) -> Any:
        await queues.put("m", {"max_depth": 7, "calibrate": False})
        await queues.put("m", {"max_depth": 8})
        return (await queues.read_all())["m"].settings

    settings = talk(url, words)
    assert (settings["max_depth"], settings["calibrate"]) == (8, False)


def test_a_queue_is_drained_and_resumed(url: str) -> None:
    async def words(queues: QueueServiceClient) -> list[str]:
        await queues.put("m", {})
        modes = []
        for word in ("drain", "resume"):
            await queues.command("m", word)
            modes.append((await queues.read_all())["m"].mode)
        return modes

    assert talk(url, words) == ["draining", "open"]


def test_settings_that_are_wrong_are_refused_with_the_services_words(url: str) -> None:
    with pytest.raises(Refused, match="max_depth"):
        talk(url, lambda queues: queues.put("m", {"max_depth": 0}))


def test_a_command_to_no_queue_is_refused(url: str) -> None:
    with pytest.raises(Refused, match="404"):
        talk(url, lambda queues: queues.command("nobody", "drain"))


def test_nobody_there_is_unreachable_and_says_where() -> None:
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:1"):
        talk("http://127.0.0.1:1", lambda queues: queues.read_all())


class _Ready(BaseHTTPRequestHandler):
    """A predictor's /readyz, counting who asks."""

    asked: ClassVar[list[str]] = []
    models: ClassVar[dict[str, dict[str, str]]] = {
        "default": {"model_version": "v7", "problem": ""},
        "chat": {"model_version": "mine", "problem": ""},
        "code": {"model_version": "v7", "problem": "cannot read /model/code/model.json"},
    }

    def do_GET(self) -> None:
        self.asked.append(self.path)
        said = {"status": "ready", "model_version": "v7", "models": self.models}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def test_a_predictor_is_asked_once_within_a_while_and_tells_of_the_model_of_each_queue() -> None:
    async def run(url: str) -> Any:
        predictors = PredictorClient()
        answers = [await predictors.ask(url, queue) for queue in ("any", "chat", "code")]
        await predictors.aclose()
        return answers

    with ThreadingHTTPServer(("127.0.0.1", 0), _Ready) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            answers = asyncio.run(run(f"http://127.0.0.1:{server.server_port}"))
        finally:
            server.shutdown()
            thread.join(20)
    assert answers == [
        PredictorFacts(version="v7", problem=""),
        PredictorFacts(version="mine", problem=""),
        PredictorFacts(version="v7", problem="", refused="cannot read /model/code/model.json"),
    ]
    assert _Ready.asked == ["/readyz"]


@pytest.mark.parametrize(
    ("said", "version"),
    [({"model_version": "v6"}, "v6"), ({}, ""), ({"models": ["chat"], "model_version": 7}, "7")],
    ids=["an earlier version", "of another make", "of yet another"],
)
def test_a_predictor_need_not_tell_of_its_models(said: Any, version: str) -> None:
    assert predictor_facts(said, "chat") == PredictorFacts(version=version, problem="")


def test_a_predictor_that_is_away_is_a_problem_with_its_address() -> None:
    async def run() -> Any:
        predictors = PredictorClient()
        said = await predictors.ask("http://127.0.0.1:1", "chat")
        await predictors.aclose()
        return said

    said = asyncio.run(run())
    assert "http://127.0.0.1:1 does not answer" in said.problem
