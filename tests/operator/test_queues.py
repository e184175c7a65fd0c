"""The operator's clients: a real queue service on a real Valkey, and a stub predictor."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import httpx
import pytest
from tests.waiting import eventually

from lengthwise_operator.clients.predictors import PredictorClient, predictor_facts
from lengthwise_operator.clients.queue_poll import PolledQueues
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
    """URL of a running queue service."""
    server = make_server(Settings(redis_url=redis_url, port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    eventually(lambda: server.started, "the queue service starts")
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


def call(url: str, calls: Callable[[QueueServiceClient], Awaitable[Any]]) -> Any:
    """Run calls of the queue service; return their result."""

    async def run() -> Any:
        service = QueueServiceClient(url, None, OperatorMetrics())
        try:
            return await calls(service)
        finally:
            await service.aclose()

    return asyncio.run(run())


@pytest.mark.slow
def test_the_settings_of_a_spec_are_those_that_the_queue_service_stores(
    url: str, service: MakeService
) -> None:
    # Operator and queue service name the settings independently; this compares the names.
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

    async def calls(queues: QueueServiceClient) -> Any:
        await queues.put(made.queue, queue_settings(made))
        return await queues.read_all()

    found = call(url, calls)["org/m-1.5"]
    sent = queue_settings(made)
    assert {name: found.settings[name] for name in sent} == sent
    assert found.active_policy == "shadow"
    assert (found.mode, found.depth, found.workers, found.backlog_s) == ("open", 0, 0, None)
    assert {"min_rank_accuracy", "predictor_url"} <= set(found.settings)


def test_settings_that_are_not_sent_keep_their_current_values(url: str) -> None:
    # The operator once sent back all settings as of its last poll, up to 5 s old. If an admin had
    # turned `calibrate` off since, a change of the manifest turned it on again.
    async def calls(queues: QueueServiceClient) -> Any:
        await queues.put("m", {"max_depth": 7, "calibrate": False})
        await queues.put("m", {"max_depth": 8})
        return (await queues.read_all())["m"].settings

    settings = call(url, calls)
    assert (settings["max_depth"], settings["calibrate"]) == (8, False)


def test_what_an_admin_changes_while_the_operator_writes_is_not_lost(url: str) -> None:
    async def calls(queues: QueueServiceClient) -> Any:
        await queues.put("m", {"max_depth": 1})
        async with httpx.AsyncClient(base_url=url) as admin:
            for n in range(2, 12):
                await asyncio.gather(
                    queues.put("m", {"max_depth": n, "min_rank_accuracy": None}),
                    admin.patch("/v1/queues/m", json={"max_wait_ms": 1000 * n}),
                    admin.patch("/v1/queues/m", json={"default_tokens": n}),
                )
                found = (await queues.read_all())["m"].settings
                got = (found["max_depth"], found["max_wait_ms"], found["default_tokens"])
                assert got == (n, 1000 * n, n)
                assert found["min_rank_accuracy"] is None
        await queues.put("m", {"min_rank_accuracy": 0.7, "drift_window_ms": None})
        return (await queues.read_all())["m"].settings

    settings = call(url, calls)
    assert (settings["min_rank_accuracy"], settings["drift_window_ms"]) == (0.7, None)


def test_a_queue_is_drained_and_resumed(url: str) -> None:
    async def calls(queues: QueueServiceClient) -> list[str]:
        await queues.put("m", {})
        modes = []
        for command in ("drain", "resume"):
            await queues.command("m", command)
            modes.append((await queues.read_all())["m"].mode)
        return modes

    assert call(url, calls) == ["draining", "open"]


def test_invalid_settings_are_refused_with_the_message_of_the_service(url: str) -> None:
    with pytest.raises(Refused, match="max_depth"):
        call(url, lambda queues: queues.put("m", {"max_depth": 0}))


def test_a_command_to_a_missing_queue_is_refused(url: str) -> None:
    with pytest.raises(Refused, match="404"):
        call(url, lambda queues: queues.command("missing", "drain"))


def test_an_unreachable_service_is_reported_with_its_address() -> None:
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:1"):
        call("http://127.0.0.1:1", lambda queues: queues.read_all())


class _Ready(BaseHTTPRequestHandler):
    """A predictor's /readyz, which records the calls."""

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


def test_one_answer_of_a_predictor_is_reused_for_the_models_of_all_queues() -> None:
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
    ("body", "version"),
    [({"model_version": "v6"}, "v6"), ({}, ""), ({"models": ["chat"], "model_version": 7}, "7")],
    ids=["an earlier version", "without any field", "of other types"],
)
def test_a_predictor_without_a_list_of_models_is_ready(body: Any, version: str) -> None:
    assert predictor_facts(body, "chat") == PredictorFacts(version=version, problem="")


def test_an_unreachable_predictor_is_reported_with_its_address() -> None:
    async def run() -> Any:
        predictors = PredictorClient()
        facts = await predictors.ask("http://127.0.0.1:1", "chat")
        await predictors.aclose()
        return facts

    facts = asyncio.run(run())
    assert "http://127.0.0.1:1 does not answer" in facts.problem


@pytest.fixture
def foreign() -> Iterator[tuple[str, list[bytes]]]:
    """URL of a server that is not the queue service, and what it answers with 200."""
    answers = [b""]

    class Foreign(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(answers[0])))
            self.end_headers()
            self.wfile.write(answers[0])

        do_PATCH = do_GET

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Foreign)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    thread.join()
    server.server_close()


# The poller ended with a JSONDecodeError, and the liveness probe then restarted the pod for ever.
@pytest.mark.parametrize(
    "body",
    [b"<html>log in</html>", b"[]", b"null", b'{"data": 3}', b'{"data": [3]}', b"\xff", b"{"],
)
def test_an_answer_that_is_not_the_queue_services_is_a_problem_and_not_the_end(
    foreign: tuple[str, list[bytes]], body: bytes
) -> None:
    url, answers = foreign
    answers[0] = body

    async def calls(queues: QueueServiceClient) -> str:
        polled = PolledQueues(queues)
        await polled.poll()
        await polled.poll()
        return polled.problem

    assert "is not the queue service" in call(url, calls)


def test_a_view_that_is_not_understood_hides_no_other_queue(
    foreign: tuple[str, list[bytes]],
) -> None:
    url, answers = foreign
    views = [{"name": "odd", "settings": {}, "depth": "many"}, {"name": "m", "settings": {}}]
    answers[0] = json.dumps({"data": views}).encode()

    async def calls(queues: QueueServiceClient) -> set[str]:
        found = set(await queues.read_all())
        answers[0] = b'{"settings": 3, "depth": null}'
        with pytest.raises(Unreachable):
            await queues.put("m", {"max_depth": 1})
        return found

    assert call(url, calls) == {"m"}


def test_a_wrong_url_of_the_queue_service_is_a_problem(foreign: tuple[str, list[bytes]]) -> None:
    async def calls(queues: QueueServiceClient) -> str:
        polled = PolledQueues(queues)
        await polled.poll()
        return polled.problem

    assert call("http://[not-a-host", calls)
