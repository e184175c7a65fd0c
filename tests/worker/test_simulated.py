"""The simulated engine over HTTP, as a client of vLLM uses it."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from lengthwise_worker.engines.simulated.batch import Faults

if TYPE_CHECKING:
    from tests.worker.conftest import Rig

    from lengthwise_worker.engines.simulated.embedded import SimulatedServer

CHAT = "/v1/chat/completions"


def chat_body(rig: Rig, **changes: Any) -> dict[str, Any]:
    return {"model": rig.queue, "messages": [{"role": "user", "content": "Hi"}], **changes}


def post(engine: SimulatedServer, body: dict[str, Any], path: str = CHAT) -> httpx.Response:
    return httpx.post(engine.url + path, json=body, timeout=30)


@pytest.mark.parametrize(
    ("fields", "want", "reason"),
    [
        ({"vllm_xargs": {"output_tokens": 7}}, 7, "stop"),
        ({"vllm_xargs": {"output_tokens": 7}, "max_tokens": 3}, 3, "length"),
        ({"vllm_xargs": {"output_tokens": 2}, "min_tokens": 5}, 5, "length"),
        ({"ignore_eos": True, "max_tokens": 11}, 11, "stop"),
        ({"ignore_eos": True, "max_completion_tokens": 4}, 4, "stop"),
    ],
    ids=["asked", "capped", "at least", "ignore_eos", "max_completion_tokens"],
)
def test_an_answer_has_the_requested_length(
    rig: Rig, fields: dict[str, Any], want: int, reason: str
) -> None:
    got = post(rig.engine(), chat_body(rig, **fields)).json()
    assert got["usage"]["completion_tokens"] == want
    assert len(got["choices"][0]["message"]["content"].split()) == want
    assert got["choices"][0]["finish_reason"] == reason


def test_a_prompt_has_an_answer_of_the_same_length_each_time(rig: Rig) -> None:
    engine = rig.engine(tokens_per_s=1e6)
    lengths = [post(engine, chat_body(rig)).json()["usage"]["completion_tokens"] for _ in range(2)]
    assert lengths[0] == lengths[1] >= 1


def test_a_stream_ends_with_usage_if_requested_and_with_done(rig: Rig) -> None:
    body = chat_body(
        rig, stream=True, max_tokens=2, ignore_eos=True, stream_options={"include_usage": True}
    )
    lines = [line for line in post(rig.engine(), body).text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert [e["usage"] for e in events[:2]] == [None, None]
    assert events[2]["usage"]["completion_tokens"] == 2


def test_completions_have_text(rig: Rig) -> None:
    body = {"model": rig.queue, "prompt": "Hi", "max_tokens": 2, "ignore_eos": True, "n": 2}
    got = post(rig.engine(), body, "/v1/completions").json()
    assert [c["text"] for c in got["choices"]] == [" w0 w1"] * 2
    assert got["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"model": "other"}, 404),
        ({"messages": []}, 400),
        ({"max_tokens": 0}, 400),
        ({"max_tokens": "many"}, 400),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, 400),
    ],
    ids=["model", "no messages", "no tokens", "type", "too long"],
)
def test_a_wrong_request_is_refused_in_vllms_shape(
    rig: Rig, changes: dict[str, Any], status: int
) -> None:
    got = post(rig.engine(), chat_body(rig) | changes)
    assert got.status_code == status
    assert got.json()["error"]["code"] == status


def test_a_priority_is_refused_unless_the_policy_is_priority(rig: Rig) -> None:
    got = post(rig.engine(by_priority=False), chat_body(rig, priority=3))
    assert got.status_code == 400
    assert "Priority scheduling is not enabled" in got.json()["error"]["message"]


@pytest.mark.slow
def test_no_more_requests_run_than_there_are_slots(rig: Rig) -> None:
    engine = rig.engine(slots=3)
    body = chat_body(rig, vllm_xargs={"output_tokens": 4})
    # The first three hold their slots for two seconds: long enough for the others to arrive.
    engine.batch.misbehave(Faults(slow_factor=100.0, times=3))
    with (
        httpx.Client(base_url=engine.url, timeout=30) as client,
        concurrent.futures.ThreadPoolExecutor(12) as pool,
    ):
        answers = list(pool.map(lambda _: client.post(CHAT, json=body).status_code, range(12)))
    assert answers == [200] * 12
    assert engine.batch.seen.peak_running == 3
    assert (engine.batch.running, engine.batch.waiting) == (0, 0)


def test_its_api_is_that_of_vllm(rig: Rig) -> None:
    engine = rig.engine()
    assert httpx.get(engine.url + "/health").status_code == 200
    [card] = httpx.get(engine.url + "/v1/models").json()["data"]
    assert (card["id"], card["max_model_len"]) == (rig.queue, 8192)
    shown = httpx.get(engine.url + "/metrics").text
    assert f'vllm:num_requests_running{{model_name="{rig.queue}",engine="0"}} 0' in shown
    assert f'vllm:num_requests_waiting{{model_name="{rig.queue}",engine="0"}} 0' in shown


def test_faults_are_set_over_http_and_expire(rig: Rig) -> None:
    engine = rig.engine()
    body = chat_body(rig, vllm_xargs={"output_tokens": 1})
    faults = {"status": 503, "retry_after_s": 2, "times": 2}
    httpx.post(engine.url + "/admin/faults", json=faults).raise_for_status()
    got = [post(engine, body) for _ in range(3)]
    assert [g.status_code for g in got] == [503, 503, 200]
    assert got[0].headers["Retry-After"] == "2"
    assert httpx.get(engine.url + "/admin/seen").json()["refused"] == 2
    assert httpx.post(engine.url + "/admin/faults", json={"wrong": 1}).status_code == 422


def test_a_fault_cuts_the_connection(rig: Rig) -> None:
    engine = rig.engine()
    engine.batch.misbehave(Faults(cut_after_tokens=2, times=1))
    with pytest.raises(httpx.RemoteProtocolError):
        post(engine, chat_body(rig, stream=True, vllm_xargs={"output_tokens": 9}))
    assert engine.batch.running == 0


def test_a_fault_makes_it_slow(rig: Rig) -> None:
    engine = rig.engine(tokens_per_s=1000.0)
    body = chat_body(rig, vllm_xargs={"output_tokens": 10})
    usual = post(engine, body).elapsed
    engine.batch.misbehave(Faults(slow_factor=50.0))
    # 10 tokens at 20/s: never less than half a second, however fast the machine.
    assert post(engine, body).elapsed.total_seconds() >= 0.5
    assert usual.total_seconds() >= 0.01


@pytest.mark.slow
def test_it_runs_as_a_program() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "lengthwise_worker.engines.simulated", "--port", str(port)]
    with subprocess.Popen([*command, "--model", "m"]) as process:
        try:
            transport = httpx.HTTPTransport(retries=100)  # with backoff, until it listens
            with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{port}") as http:
                [card] = http.get("/v1/models").json()["data"]
        finally:
            process.terminate()
    assert card["id"] == "m"


def test_an_engine_that_hangs_sends_no_headers(rig: Rig) -> None:
    engine = rig.engine()
    engine.batch.misbehave(Faults(hang=True, times=1))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(engine.url + CHAT, json=chat_body(rig), timeout=0.3)
    assert post(engine, chat_body(rig)).status_code == 200


def test_an_engine_that_hangs_in_mid_answer_has_sent_the_tokens_before(rig: Rig) -> None:
    engine = rig.engine()
    engine.batch.misbehave(Faults(hang_after_tokens=2))
    got = b""
    body = chat_body(rig, stream=True, vllm_xargs={"output_tokens": 9})
    with httpx.stream("POST", engine.url + CHAT, json=body, timeout=0.5) as response:
        pieces = response.iter_raw()
        while got.count(b"data: ") < 2:
            got += next(pieces)
        with pytest.raises(httpx.ReadTimeout):
            got += next(pieces)
    assert got.count(b"data: ") == 2


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("kind", ["bytes", "html", "empty", "json", "ends"])
def test_garbage_is_a_200_without_an_answer(rig: Rig, kind: Any, stream: bool) -> None:
    engine = rig.engine(tokens_per_s=1e6)
    engine.batch.misbehave(Faults(garbage=kind))
    got = post(engine, chat_body(rig, stream=stream, vllm_xargs={"output_tokens": 9}))
    assert got.status_code == 200
    assert b"[DONE]" not in got.content
    assert b'finish_reason": "stop' not in got.content
    assert not is_answer(got.content)


def is_answer(body: bytes) -> bool:
    try:
        return "choices" in json.loads(body)
    except ValueError:
        return False


def test_an_engine_with_another_model_lists_it_and_does_not_know_ours(rig: Rig) -> None:
    engine = rig.engine()
    engine.batch.misbehave(Faults(model="other"))
    assert [m["id"] for m in httpx.get(engine.url + "/v1/models").json()["data"]] == ["other"]
    assert post(engine, chat_body(rig)).status_code == 404
    assert post(engine, chat_body(rig, model="other", max_tokens=1)).status_code == 200


def test_a_lump_holds_the_events_of_many_tokens(rig: Rig) -> None:
    engine = rig.engine(tokens_per_s=1e6)
    engine.batch.misbehave(Faults(lump_tokens=50, token_bytes=100))
    body = chat_body(rig, stream=True, vllm_xargs={"output_tokens": 120})
    with httpx.stream("POST", engine.url + CHAT, json=body, timeout=9) as response:
        text = "".join(response.iter_text())
    events = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    assert [len(e["choices"][0]["delta"]["content"]) for e in events] == [100] * 120


def test_an_engine_can_refuse_fields_by_name(rig: Rig) -> None:
    engine = rig.engine()
    engine.batch.misbehave(Faults(refuse_fields=["stream_options"]))
    got = post(engine, chat_body(rig, stream=True, stream_options={"include_usage": True}))
    assert got.status_code == 422
    assert "stream_options" in got.json()["error"]["message"]
    assert post(engine, chat_body(rig, max_tokens=1)).status_code == 200
