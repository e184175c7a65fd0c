"""The load driver, against a small real stack with the simulated engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from lengthwise_cli.local import ports
from lengthwise_cli.local.settings import StackEngine, StackSettings
from lengthwise_cli.local.stack import Stack
from lengthwise_contract.jobs import JobRequest
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_lab.errors import BadChoice, ServiceError
from lengthwise_lab.loadtest.arrivals import ArrivalProcess
from lengthwise_lab.loadtest.client import ServiceClient, choose_model, root_of
from lengthwise_lab.loadtest.compare import compare
from lengthwise_lab.loadtest.driver import LoadTarget, drive, has_token, look_up, send
from lengthwise_lab.loadtest.measures import Sample
from lengthwise_lab.loadtest.overhead import measure_overhead
from lengthwise_lab.loadtest.report import build
from lengthwise_lab.loadtest.workload import TimedRequest, chat_body


def requests_of(lengths: Sequence[int], *, every_s: float = 0.0) -> list[TimedRequest]:
    """Make requests whose answers have these lengths, tokens, on the simulated engine."""
    return [
        TimedRequest(
            index=i,
            due_to_send_s=i * every_s,
            body={
                **chat_body(f"Request {i}", max_tokens=1000),
                "vllm_xargs": {"output_tokens": tokens},
            },
        )
        for i, tokens in enumerate(lengths)
    ]


def settings(folder: Path, *, slots: int = 1) -> StackSettings:
    return StackSettings(
        data_dir=folder, engine=StackEngine.SIMULATED, slots=slots, port=ports.find_free()
    )


@pytest.mark.slow
def test_a_comparison_measures_what_the_engine_did_and_restores_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [40, 5, 20, 10]
    put: list[tuple[str, float]] = []

    async def scenario() -> None:
        async with Stack(settings(tmp_path), print) as stack, ServiceClient(stack.url) as service:
            target = LoadTarget(url=stack.url, model=stack.model)
            before = (await service.queue(stack.model)).settings
            really_put = service.put_queue

            async def put_queue(model: str, to: QueueSettings) -> None:
                put.append((to.policy, to.overtake_wait_factor))
                await really_put(model, to)

            monkeypatch.setattr(service, "put_queue", put_queue)
            done: list[Sample] = []
            order: list[str] = []
            runs = await compare(
                service,
                target,
                requests_of(lengths),
                policies=("fcfs", "sjf", "sjf-k"),
                on_run=order.append,
                on_done=done.append,
            )
            assert order == ["fcfs", "sjf", "sjf-k"]
            assert put == [("fcfs", 2), ("sjf", 2), ("sjf", 0), (before.policy, 2)]
            assert len(done) == 3 * len(lengths)
            assert (await service.queue(stack.model)).settings == before
            for run in runs:
                assert [s.output_tokens for s in run.samples] == lengths
                assert {s.policy for s in run.samples} == {run.policy.removesuffix("-k")}
                for s in run.samples:
                    assert s.ok
                    assert s.ttft_s is not None
                    assert s.completion_s is not None
                    assert s.service_s is not None
                    assert 0 < s.ttft_s <= s.completion_s <= run.duration_s
                    assert s.service_s <= s.completion_s
            report = build(runs, model=stack.model, slots=1, seed=1, arrivals=ArrivalProcess())
            assert report.failed == 0
            assert report.oracle is not None
            assert report.oracle.completion.mean_s < report.oracle.model_fcfs.mean_s

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_queue_in_use_is_not_used_for_a_comparison_and_keeps_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lengthwise_lab.loadtest.compare.IDLE_WITHIN_S", 0.2)

    async def scenario() -> None:
        async with Stack(settings(tmp_path), print) as stack, ServiceClient(stack.url) as service:
            before = (await service.queue(stack.model)).settings
            body = {**requests_of([2000])[0].body, "model": stack.model, "max_tokens": 4000}
            running = await service.submit(JobRequest.model_validate({"body": body}))
            with pytest.raises(BadChoice, match="is in use"):
                await compare(
                    service,
                    LoadTarget(url=stack.url, model=stack.model),
                    requests_of([5]),
                    policies=("fcfs",),
                    on_run=lambda _: None,
                    on_done=lambda _: None,
                )
            assert (await service.queue(stack.model)).settings == before
            await service.cancel(running.id)

    asyncio.run(scenario())


@pytest.mark.slow
def test_the_overhead_is_measured_on_both_paths_and_errors_are_samples(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Stack(settings(tmp_path), print) as stack, ServiceClient(stack.url) as service:
            assert stack.engine_url is not None
            path = LoadTarget(url=stack.url, model=stack.model)
            engine = LoadTarget(url=stack.engine_url, model=stack.model)
            bodies = [("", chat_body("Hello", max_tokens=50))]
            pairs: list[None] = []
            got = await measure_overhead(
                path, engine, bodies, pairs=3, on_pair=lambda: pairs.append(None)
            )
            assert got.pairs == 3
            assert len(pairs) > 3
            assert min(got.engine_p50_ms, got.path_p50_ms) > 0
            assert got.added_p50_ms == got.path_p50_ms - got.engine_p50_ms

            unknown = LoadTarget(url=stack.url, model="unknown")
            [refused] = await drive(unknown, requests_of([1]), on_done=lambda _: None)
            assert not refused.ok
            assert refused.error is not None
            assert "HTTP 404" in refused.error
            assert await look_up(service, [refused]) == [refused]

            # An engine is not a queue service: its answers have no job to look up.
            direct = await drive(engine, requests_of([2]), on_done=lambda _: None)
            with pytest.raises(ServiceError, match="is it an engine"):
                await look_up(service, direct)

    asyncio.run(scenario())


# ------------------------------------------------------------------------------- without a stack


def stream(text: str) -> httpx.AsyncClient:
    """Make a client that gets this event stream for every request."""

    def answer(_: httpx.Request) -> httpx.Response:
        headers = {"x-lengthwise-job-id": "j", "content-type": "text/event-stream"}
        return httpx.Response(200, headers=headers, content=text.encode())

    return httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://there")


def sample_of(text: str, *, late_s: float = 0.0) -> Sample:
    async def scenario() -> Sample:
        async with stream(text) as http:
            request = requests_of([1])[0]
            return await send(http, "m", request, due_s=time.monotonic() - late_s)

    return asyncio.run(scenario())


def test_the_times_of_a_request_that_was_sent_late_count_from_its_due_time() -> None:
    # Coordinated omission: a slow driver must not make the server look fast.
    text = 'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]\n\n'
    sample = sample_of(text, late_s=5.0)
    assert sample.ttft_s is not None
    assert sample.completion_s is not None
    assert 5.0 <= sample.ttft_s <= sample.completion_s


def test_a_stream_that_is_cut_off_is_not_an_answer() -> None:
    sample = sample_of('data: {"choices": [{"delta": {"content": "a"}}]}\n\n')
    assert not sample.ok
    assert sample.error is not None
    assert "before [DONE]" in sample.error


def test_an_error_in_the_middle_of_a_stream_is_not_an_answer() -> None:
    sample = sample_of('data: {"error": {"message": "out of memory"}}\n\ndata: [DONE]\n\n')
    assert not sample.ok
    assert sample.error is not None
    assert "out of memory" in sample.error


@pytest.mark.parametrize(
    ("event", "want"),
    [
        pytest.param({"choices": [{"delta": {"role": "assistant"}}]}, False, id="role"),
        pytest.param(
            {"choices": [{"delta": {"role": "assistant", "content": ""}}]}, False, id="empty"
        ),
        pytest.param({"choices": []}, False, id="usage"),
        pytest.param({"choices": [{"delta": {"content": "a"}}]}, True, id="text"),
        pytest.param({"choices": [{"delta": {"tool_calls": [{}]}}]}, True, id="tool call"),
        pytest.param({"choices": [{"text": "a"}]}, True, id="completion"),
    ],
)
def test_the_first_token_is_the_first_chunk_with_output(
    event: dict[str, object], want: bool
) -> None:
    assert has_token(event) is want


@pytest.mark.parametrize(
    ("served", "wanted", "want"),
    [
        pytest.param(["a"], None, "a", id="the only one"),
        pytest.param(["a", "b"], "b", "b", id="the wanted one"),
    ],
)
def test_a_model_is_chosen(served: list[str], wanted: str | None, want: str) -> None:
    assert choose_model(served, wanted, where="there") == want


@pytest.mark.parametrize(("served", "wanted"), [([], None), (["a", "b"], None), (["a"], "b")])
def test_a_model_that_cannot_be_chosen_is_refused_with_the_list_of_models(
    served: list[str], wanted: str | None
) -> None:
    with pytest.raises(BadChoice, match=", ".join(served) or "none"):
        choose_model(served, wanted, where="there")


@pytest.mark.parametrize("url", ["host:80", "http://host:80", "http://host:80/", "host:80/v1/"])
def test_a_url_may_be_given_in_several_ways(url: str) -> None:
    assert root_of(url) == "http://host:80"
