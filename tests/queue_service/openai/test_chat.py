"""Chat and completions through the official OpenAI client; the engine is a script."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest

from lengthwise_contract.jobs import JobError
from lengthwise_store.jobs import Claim, Outcome, OutcomeKind

Front = Any  # tests/queue_service/conftest.py
DeltaOf = Callable[..., bytes]
Until = Callable[[Callable[[], Any], str], Any]
Steps = AsyncIterator[bytes | Outcome]

USER: Any = [{"role": "user", "content": "Hi"}]
RETRY = Outcome(kind=OutcomeKind.RETRY, error=JobError(code="engine_lost", message="It died."))


def failing(status: int, body: Any) -> Outcome:
    error = JobError(code="engine_error", message="The engine refused.", status=status, body=body)
    return Outcome(kind=OutcomeKind.ERROR, error=error)


def text_of(stream: Any) -> str:
    return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)


def test_a_chat_is_answered_with_the_engines_own_body(front: Front) -> None:
    with front.openai() as client:
        answer = client.chat.completions.with_raw_response.create(model=front.model, messages=USER)
    completion = answer.parse()
    assert completion.choices[0].message.content == "Hello, you"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 7
    assert front.job(answer.headers["x-lengthwise-job-id"])["state"] == "succeeded"


def test_a_chat_streams(front: Front) -> None:
    with front.openai() as client:
        stream = client.chat.completions.create(model=front.model, messages=USER, stream=True)
        assert text_of(stream) == "Hello, you"


def test_a_streamed_chunk_is_byte_for_byte_that_of_the_engine(
    front: Front, delta_of: DeltaOf
) -> None:
    odd = b'{"id":"x","choices":[{"index":0,"delta":{"content":"\\u00e9 1.0"}}],"weird":1.50}'

    async def script(claim: Claim) -> Steps:
        yield odd

    front.worker.script = script
    raw = front.http.post("/v1/chat/completions", json=front.chat(stream=True))
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert b"data: " + odd + b"\n\n" in raw.content
    assert raw.content.endswith(b"data: [DONE]\n\n")


def test_completions_answer_and_stream(front: Front) -> None:
    with front.openai() as client:
        assert client.completions.create(model=front.model, prompt="Hi").choices[0].text == "Hey"
        stream = client.completions.create(model=front.model, prompt="Hi", stream=True)
        assert "".join(c.choices[0].text for c in stream) == "Hello"


def test_two_answers_come_as_two_choices(front: Front) -> None:
    with front.openai() as client:
        plain = client.chat.completions.create(model=front.model, messages=USER, n=2)
        stream = client.chat.completions.create(model=front.model, messages=USER, n=2, stream=True)
        texts = {0: "", 1: ""}
        for event in stream:
            texts[event.choices[0].index] += event.choices[0].delta.content or ""
    assert [c.index for c in plain.choices] == [0, 1]
    assert texts == {0: "Hello, you", 1: "Hello, you"}


def test_tool_calls_stream(front: Front, delta_of: DeltaOf) -> None:
    async def script(claim: Claim) -> Steps:
        call = {"index": 0, "id": "call_1", "type": "function"}
        yield delta_of(role="assistant", tool_calls=[call | {"function": {"name": "f"}}])
        yield delta_of(tool_calls=[{"index": 0, "function": {"arguments": '{"a":'}}])
        yield delta_of(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}])
        yield delta_of(finish="tool_calls")

    front.worker.script = script
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    with (
        front.openai() as client,
        client.chat.completions.stream(model=front.model, messages=USER, tools=tools) as stream,
    ):
        final = stream.get_final_completion()
    [call] = final.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("f", '{"a":1}')
    assert json.loads(front.worker.bodies[0])["tools"] == tools


def test_logprobs_stream(front: Front, delta_of: DeltaOf) -> None:
    logprobs = {"content": [{"token": "Hi", "logprob": -0.5, "bytes": None, "top_logprobs": []}]}

    async def script(claim: Claim) -> Steps:
        yield delta_of("Hi", logprobs=logprobs)

    front.worker.script = script
    with front.openai() as client:
        [event] = client.chat.completions.create(
            model=front.model, messages=USER, stream=True, logprobs=True
        )
    assert event.choices[0].logprobs is not None
    [token] = event.choices[0].logprobs.content or []
    assert token.logprob == -0.5


def test_the_async_client_works(front: Front) -> None:
    async def talk() -> tuple[str | None, str]:
        async with openai.AsyncOpenAI(base_url=f"{front.url}/v1", api_key="any") as client:
            plain, stream = await asyncio.gather(
                client.chat.completions.create(model=front.model, messages=USER),
                client.chat.completions.create(model=front.model, messages=USER, stream=True),
            )
            streamed = [e.choices[0].delta.content or "" async for e in stream]
            return plain.choices[0].message.content, "".join(streamed)

    assert asyncio.run(talk()) == ("Hello, you", "Hello, you")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_the_body_reaches_the_engine_untouched(front: Front, stream: bool) -> None:
    # Key order, spacing, escapes, number spellings and unknown fields all survive.
    text = (
        '{ "stream":STREAM,"model":"MODEL", "temperature": 1.00, "messages":[ {"role":"user",'
        '"content":"caf\\u00e9 \U0001f600"}],\n"extra_body_field":{"x":[1e3]}, "seed":-0 }'
    )
    text = text.replace("STREAM", str(stream).lower()).replace("MODEL", front.model)
    body = text.encode()
    front.http.post("/v1/chat/completions", content=body).raise_for_status()
    assert front.worker.bodies == [body]


def test_an_unknown_model_is_a_404_that_says_how_to_see_the_models(front: Front) -> None:
    with front.openai() as client, pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nope", messages=USER)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "/v1/models" in str(caught.value)


def test_a_chat_without_messages_is_refused(front: Front) -> None:
    with front.openai() as client, pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", cast_to=object, body={"model": front.model})
    assert caught.value.param == "messages"
    assert front.worker.bodies == []


@pytest.mark.parametrize("spelling", [True, "true", 1], ids=str)
def test_a_stream_that_is_asked_for_in_a_spelling_that_vllm_takes_is_a_stream(
    front: Front, delta_of: DeltaOf, spelling: Any
) -> None:
    async def script(claim: Claim) -> Steps:
        yield delta_of("Hi", finish="stop")

    front.worker.script = script
    raw = front.http.post("/v1/chat/completions", json=front.chat(stream=spelling, n=1.0))
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.content.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_an_engines_refusal_is_returned_with_its_status_and_body(
    front: Front, stream: bool
) -> None:
    want = {"error": {"message": "too hot", "type": "BadRequestError", "param": "t", "code": 400}}

    async def script(claim: Claim) -> Steps:
        yield failing(400, want)

    front.worker.script = script
    answer = front.http.post("/v1/chat/completions", json=front.chat(stream=stream))
    assert (answer.status_code, answer.json()) == (400, want)
    assert answer.headers["x-lengthwise-job-id"]


def test_a_failure_without_an_engines_error_is_a_502_that_clients_do_not_repeat(
    front: Front,
) -> None:
    async def script(claim: Claim) -> Steps:
        error = JobError(code="engine_unreachable", message="The engine is away.")
        yield Outcome(kind=OutcomeKind.ERROR, error=error)

    front.worker.script = script
    answer = front.http.post("/v1/chat/completions", json=front.chat())
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "engine_unreachable"
    assert answer.headers["x-should-retry"] == "false"


def test_a_failure_after_the_first_chunk_ends_the_stream_with_an_error(
    front: Front, delta_of: DeltaOf
) -> None:
    async def script(claim: Claim) -> Steps:
        yield delta_of("Hel")
        yield failing(500, {"error": {"message": "out of memory", "code": "oom"}})

    front.worker.script = script
    with front.openai() as client, pytest.raises(openai.APIError, match="out of memory"):
        text_of(client.chat.completions.create(model=front.model, messages=USER, stream=True))


def test_a_job_that_another_client_cancels_is_a_409(front: Front, until: Until) -> None:
    started = threading.Event()

    async def script(claim: Claim) -> Steps:
        started.set()
        await asyncio.sleep(60)  # an engine that does not answer during the test
        yield b"{}"

    front.worker.script = script
    answers: list[httpx.Response] = []
    body = front.chat()
    asks = threading.Thread(
        target=lambda: answers.append(front.http.post("/v1/chat/completions", json=body))
    )
    asks.start()
    assert started.wait(20)
    [running] = front.http.get(f"/v1/queues/{front.model}/snapshot").json()["running"]
    front.http.delete(f"/v1/jobs/{running['id']}")
    asks.join(20)
    assert answers[0].status_code == 409
    assert answers[0].json()["error"]["code"] == "job_cancelled"


# ------------------------------------------------------------------------------- disconnects


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("claimed", [False, True], ids=["waiting", "running"])
def test_a_client_that_disconnects_cancels_its_job(
    make_front: Callable[..., Front], until: Until, stream: bool, claimed: bool
) -> None:
    front = make_front()
    front.put_queue()

    async def script(claim: Claim) -> Steps:
        await asyncio.sleep(60)  # an engine that does not answer during the test
        yield b"{}"

    front.worker.script = script
    if claimed:
        front.worker.start()
    queue, line = f"/v1/queues/{front.model}", f"/v1/queues/{front.model}/snapshot"
    with front.pending_request("/v1/chat/completions", front.chat(stream=stream)):
        where = "running" if claimed else "waiting"
        until(lambda: front.http.get(line).json()[where], "the job is there")
    until(lambda: front.http.get(queue).json()["cancelled"] == 1, "the job is cancelled")
    [job] = front.http.get(line).json()["finished"]
    assert job["state"] == "cancelled"
    assert front.worker.aborted == ([job["id"]] if claimed else [])
    assert front.metric("requests_total", service=front.model, outcome="client_disconnected") == 1


def test_disconnecting_during_the_stream_cancels_the_job(
    front: Front, delta_of: DeltaOf, until: Until
) -> None:
    async def script(claim: Claim) -> Steps:
        yield delta_of("Hel")
        await asyncio.sleep(60)  # an engine that does not answer during the test
        yield delta_of("lo")

    front.worker.script = script
    with front.openai() as client:
        stream = client.chat.completions.create(model=front.model, messages=USER, stream=True)
        next(iter(stream))
        stream.close()
    until(lambda: front.worker.aborted, "the engine's request is aborted")
    assert front.ended(front.worker.aborted[0])["state"] == "cancelled"


def test_with_an_idempotency_key_a_client_can_disconnect_and_come_back(
    front: Front, until: Until
) -> None:
    release = threading.Event()

    async def script(claim: Claim) -> Steps:
        await asyncio.to_thread(release.wait, 20)
        yield b'{"object":"chat.completion","choices":[]}'

    front.worker.script = script
    headers, body = {"Idempotency-Key": "k1"}, front.chat()
    with front.pending_request("/v1/chat/completions", body, **headers):
        until(lambda: front.worker.bodies, "the job is being answered")
    outcome = {"service": front.model, "outcome": "client_disconnected"}
    until(lambda: front.metric("requests_total", **outcome) == 1, "the disconnect is noticed")
    release.set()
    answer = front.http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200
    assert len(front.worker.bodies) == 1


@pytest.mark.parametrize("cut", range(6))
def test_a_chat_stream_that_broke_off_is_resumed_as_the_jobs_stream(
    front: Front, make_front: Callable[..., Front], cut: int
) -> None:
    body = front.chat(stream=True)
    answer = front.http.post("/v1/chat/completions", json=body)
    lines = answer.text.splitlines()
    ids = [line[4:] for line in lines if line.startswith("id: ")]
    chunks = [line for line in lines if line.startswith("data: {")]
    headers = {"Last-Event-ID": ids[cut - 1]} if cut else {}
    path = f"/v1/jobs/{answer.headers['x-lengthwise-job-id']}/stream"
    rest = make_front().http.get(path, headers=headers).text.splitlines()
    resumed = [line for line in rest if line.startswith("data: ")]
    assert chunks[:cut] + resumed[:-1] == chunks
    assert '"state":"succeeded"' in resumed[-1]


# ------------------------------------------------------------------------------- attempts


def attempts(delta_of: DeltaOf, *texts: list[str]) -> Callable[[Claim], Steps]:
    """An engine that dies after each of `texts` but the last."""

    async def script(claim: Claim) -> Steps:
        attempt = claim.lease.attempt
        yield delta_of("", role="assistant")
        for word in texts[attempt - 1]:
            yield delta_of(word)
        if attempt < len(texts):
            yield RETRY
        else:
            yield delta_of(finish="stop")

    return script


@pytest.mark.slow
def test_a_second_attempt_that_repeats_itself_is_spliced(front: Front, delta_of: DeltaOf) -> None:
    front.worker.script = attempts(delta_of, ["Hel", "lo, y"], ["He", "llo, yo", "u all"])
    raw = front.http.post("/v1/chat/completions", json=front.chat(stream=True)).text
    events = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")]
    text = "".join(e["choices"][0]["delta"].get("content") or "" for e in events)
    assert text == "Hello, you all"
    assert ": attempt 2" in raw.splitlines()
    assert [e["choices"][0]["finish_reason"] for e in events].count("stop") == 1


@pytest.mark.slow
def test_a_second_attempt_that_differs_ends_the_stream_with_the_url_of_the_answer(
    front: Front, delta_of: DeltaOf
) -> None:
    front.worker.script = attempts(delta_of, ["Hel", "lo"], ["Good ", "day"])
    got: list[str] = []

    def talk(client: openai.OpenAI) -> None:
        for event in client.chat.completions.create(model=front.model, messages=USER, stream=True):
            got.append(event.choices[0].delta.content or "")

    with front.openai() as client, pytest.raises(openai.APIError) as caught:
        talk(client)
    assert "".join(got) == "Hello"
    assert caught.value.code == "attempt_restarted"
    job_id = caught.value.message.partition("GET /v1/jobs/")[2].split()[0]
    answer = front.ended(job_id)["response"]["choices"][0]["message"]["content"]
    assert answer == "Good day"


@pytest.mark.slow
def test_a_repeated_request_whose_attempt_restarted_gets_the_answer(
    front: Front, delta_of: DeltaOf
) -> None:
    # The stream that is open when the worker dies must end with `attempt_restarted`. Once, each
    # repetition with the same key ended so too: it was sent the words of the first attempt before
    # those of the second, although the new client had nothing yet that these could contradict.
    front.worker.script = attempts(delta_of, ["Hel", "lo"], ["Good ", "day"])
    got: list[str] = []

    def talk(client: openai.OpenAI) -> None:
        headers = {"Idempotency-Key": "k1"}
        for event in client.chat.completions.create(
            model=front.model, messages=USER, stream=True, extra_headers=headers
        ):
            got.append(event.choices[0].delta.content or "")

    with front.openai() as client:
        with pytest.raises(openai.APIError):
            talk(client)
        got.clear()
        talk(client)
    assert "".join(got) == "Good day"


@pytest.mark.slow
def test_a_plain_request_gets_the_last_attempts_answer(front: Front) -> None:
    async def script(claim: Claim) -> Steps:
        yield b'{"attempt":%d}' % claim.lease.attempt
        if claim.lease.attempt == 1:
            yield RETRY

    front.worker.script = script
    answer = front.http.post("/v1/chat/completions", json=front.chat())
    assert answer.json() == {"attempt": 2}


def test_the_official_client_survives_a_comment_between_two_chunks(
    front: Front, delta_of: DeltaOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Comments once ended with the usual blank line. After an `id:` line, OpenAI's client takes a
    # blank line for an event, and raised JSONDecodeError (openai-python #2722).
    monkeypatch.setattr("lengthwise_queue.openai.request_tracker.KEEP_ALIVE_S", 0.02)
    commented = threading.Event()

    async def script(claim: Claim) -> Steps:
        yield delta_of("Hel")
        await asyncio.to_thread(commented.wait, 20)
        await asyncio.sleep(0.2)  # time passes: the official client does not report comments
        yield delta_of("lo")

    front.worker.script = script
    with front.http.stream("POST", "/v1/chat/completions", json=front.chat(stream=True)) as answer:
        for line in answer.iter_lines():
            if line == ": waiting":
                commented.set()
    assert commented.is_set()
    with front.openai() as client:
        stream = client.chat.completions.create(model=front.model, messages=USER, stream=True)
        assert text_of(stream) == "Hello"


# ------------------------------------------------------------------------------- the queue


def test_a_full_queue_is_a_429_with_a_time_to_come_back(
    make_front: Callable[..., Front],
) -> None:
    front = make_front()
    front.put_queue(max_depth=2, default_tokens=1000, default_ms_per_token=10)
    front.worker.slots = 0  # it is registered, so that the speed is known, and claims no job
    for _ in range(2):
        front.submit()
    answer = front.http.post("/v1/chat/completions", json=front.chat())
    assert answer.status_code == 429
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    with front.openai() as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=front.model, messages=USER)
    assert front.metric("requests_total", service=front.model, outcome="refused") == 2


def test_a_waiting_stream_is_kept_alive_and_has_the_jobs_id(
    idle_front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lengthwise_queue.openai.request_tracker.HEADER_HOLD_S", 0.05)
    monkeypatch.setattr("lengthwise_queue.openai.request_tracker.KEEP_ALIVE_S", 0.05)
    body = idle_front.chat(stream=True)
    with idle_front.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        job_id = answer.headers["x-lengthwise-job-id"]
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(3)] == [": waiting"] * 3
        assert idle_front.job(job_id)["state"] == "queued"


@pytest.mark.slow
def test_an_expired_job_is_a_504(make_front: Callable[..., Front]) -> None:
    front = make_front()
    front.put_queue(request_ttl_ms=1000)
    front.worker.slots = 0  # it makes jobs expire, and claims none
    front.worker.start()
    answer = front.http.post("/v1/chat/completions", json=front.chat())
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "job_expired"
