"""Requests to the predictor over real sockets, with many kinds of failures."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lengthwise_contract.prediction import (
    PredictBatchRequest,
    PredictBatchResponse,
    Prediction,
    PredictRequest,
)
from lengthwise_queue.prediction import client as predictor_client
from lengthwise_queue.prediction.circuit_breaker import FAILURES_TO_OPEN, FIRST_PAUSE_S
from lengthwise_queue.prediction.client import MAX_BATCH, MAX_CALLS, Fallback, PredictorClient

ANSWER = Prediction(
    model_version="v1", p10_tokens=2, p50_tokens=2, p90_tokens=2, mean_tokens=2, rank_score=0.5
)
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def http(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def answers_of(version: str = "v1", headers: str = "") -> Callable[[int], bytes]:
    """An answer to n prompts; the i-th has a median of i + 1 tokens."""

    def answer(count: int) -> bytes:
        many = [
            ANSWER.model_copy(update={"model_version": version, "p50_tokens": 2.0 + i})
            for i in range(count)
        ]
        body = PredictBatchResponse(predictions=many).model_dump_json()
        return http(body.encode(), headers=headers)

    return answer


GOOD = answers_of()
LATE = answers_of("late")


@asynccontextmanager
async def predictor(
    *answers: Callable[[int], bytes] | bytes | None,
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server with one answer for each request; the last answer repeats.

    None is no answer in time: `LATE` is sent before the connection's next answer, if any.
    """
    received: list[bytes] = []
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        owed = b""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                received.append(await reader.readexactly(size))
                answer = answers[min(len(received), len(answers)) - 1]
                if answer is None:
                    owed += LATE(1)
                    continue
                if not isinstance(answer, bytes):
                    answer = answer(len(json.loads(received[-1])["inputs"]))
                writer.write(owed + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", received
    finally:
        server.close()
        await asyncio.gather(*(task for task in serving if task))


def about(prompt: str, **facts: Any) -> PredictRequest:
    return PredictRequest(model="m", prompt=prompt, **facts)


class Reports:
    """What the client reported to its callbacks."""

    def __init__(self) -> None:
        self.answers: list[float] = []
        self.fallbacks: list[Fallback] = []

    def client(self, url: str | None, timeout_ms: float = 5000) -> PredictorClient:
        return PredictorClient(
            url,
            timeout_ms=timeout_ms,
            on_answer=self.answers.append,
            on_fallback=self.fallbacks.append,
        )


REFUSED = http(b'{"error": {"message": "application: Extra inputs"}}', "422 Unprocessable Entity")


def test_a_predictor_that_refuses_facts_gets_the_text_alone_and_no_job_waits_for_its_fallback() -> (
    None
):
    async def body() -> None:
        reports = Reports()
        async with predictor(REFUSED, GOOD) as (url, received):
            client = reports.client(url)
            chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
            asked = PredictRequest(model="m", messages=chat, application="a", view=True, n=2)
            assert (await client.ask(asked)).prediction == ANSWER
            assert (await client.ask(about("x", view=True))).prediction == ANSWER
            await client.aclose()
        sent = [json.loads(one)["inputs"][0] for one in received]
        assert [set(one) for one in sent] == [
            {"model", "messages", "application", "view", "n"},
            {"model", "prompt"},
            {"model", "prompt"},  # it is not offered the facts again at once
        ]
        assert sent[1]["prompt"] == "u"
        assert reports.fallbacks == []

    asyncio.run(body())


def test_a_request_that_is_refused_without_facts_is_not_repeated() -> None:
    async def body() -> None:
        reports = Reports()
        async with predictor(REFUSED) as (url, received):
            client = reports.client(url)
            assert (await client.ask(about("x"))).prediction is None
            await client.aclose()
        assert len(received) == 1
        assert reports.fallbacks == [Fallback.ERROR]

    asyncio.run(body())


def test_a_prediction_is_fetched_over_one_connection() -> None:
    async def body() -> None:
        reports = Reports()
        async with predictor(GOOD) as (url, received):
            client = reports.client(url)
            for _ in range(3):
                assert (
                    await client.ask(PredictRequest(model="org/m", prompt="How long? \u00e9"))
                ).prediction == ANSWER
            await client.aclose()
        want = PredictBatchRequest(
            inputs=[PredictRequest(model="org/m", prompt="How long? \u00e9")]
        )
        assert [PredictBatchRequest.model_validate_json(a) for a in received] == [want] * 3
        assert len(reports.answers) == 3
        assert reports.fallbacks == []

    asyncio.run(body())


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, Fallback.TIMEOUT),
        (http(b"{}", "503 Service Unavailable"), Fallback.ERROR),
        (http(b"{}"), Fallback.ERROR),
        (GOOD(2), Fallback.ERROR),
        (http(b'{"p50_tokens": "secret"}'), Fallback.ERROR),
        (http(b"not json"), Fallback.ERROR),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Fallback.ERROR),
        (GOOD(1)[:30], Fallback.TIMEOUT),
    ],
    ids=[
        "silent",
        "503",
        "no fields",
        "too many",
        "wrong fields",
        "no json",
        "no http",
        "half an answer",
    ],
)
def test_a_bad_answer_is_a_counted_fallback(answer: bytes | None, why: Fallback) -> None:
    async def body() -> None:
        reports = Reports()
        async with predictor(answer) as (url, _):
            client = reports.client(url, timeout_ms=200 if why is Fallback.TIMEOUT else 5000)
            assert (await client.ask(about("x"))).prediction is None
            await client.aclose()
        assert reports.fallbacks == [why]
        assert reports.answers == []

    asyncio.run(body())


def test_a_burst_is_a_few_calls_and_each_job_gets_the_answer_to_its_own_prompt() -> None:
    async def body() -> None:
        reports = Reports()
        async with predictor(GOOD) as (url, received):
            client = reports.client(url)
            prompts = [f"prompt {i}" for i in range(100)]
            answers = await asyncio.gather(*(client.ask(about(p)) for p in prompts))
            await client.aclose()
        calls = [[one["prompt"] for one in json.loads(a)["inputs"]] for a in received]
        assert sorted(p for call in calls for p in call) == sorted(prompts)
        assert len(calls) <= 8
        place = {p: 2.0 + i for call in calls for i, p in enumerate(call)}
        assert [a.prediction.p50_tokens for a in answers if a.prediction is not None] == [
            place[p] for p in prompts
        ]
        assert reports.fallbacks == []

    asyncio.run(body())


class _OtherThread(BaseHTTPRequestHandler):
    """A predictor on another thread."""

    protocol_version = "HTTP/1.1"
    answered = threading.Semaphore(0)

    def do_POST(self) -> None:
        received = self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(GOOD(len(json.loads(received)["inputs"])))
        self.answered.release()

    def log_message(self, *_: object) -> None:
        pass


def test_an_answer_that_came_while_the_loop_was_busy_is_not_late() -> None:
    async def body(url: str) -> None:
        reports = Reports()
        client = reports.client(url, timeout_ms=200)
        assert (await client.ask(about("connect"))).prediction == ANSWER
        assert _OtherThread.answered.acquire(timeout=20)
        asking = asyncio.create_task(client.ask(about("x")))
        for _turn in range(3):  # the question is sent; its answer cannot have been read yet
            await asyncio.sleep(0)
        assert not asking.done()
        assert _OtherThread.answered.acquire(timeout=20)
        time.sleep(0.3)  # noqa: ASYNC251 - the loop is busy, for longer than the deadline
        assert (await asking).prediction == ANSWER
        await client.aclose()
        assert reports.fallbacks == []

    with ThreadingHTTPServer(("127.0.0.1", 0), _OtherThread) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asyncio.run(body(f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()


def test_a_closed_port_is_a_counted_fallback() -> None:
    async def body() -> None:
        async with predictor(GOOD) as (url, _):
            pass  # its port is closed again
        reports = Reports()
        client = reports.client(url)
        assert (await client.ask(about("x"))).prediction is None
        await client.aclose()
        assert reports.fallbacks == [Fallback.ERROR]

    asyncio.run(body())


@pytest.mark.parametrize(
    ("url", "text", "why"),
    [(None, "x", Fallback.OFF), ("http://127.0.0.1:1", None, Fallback.NO_TEXT)],
    ids=["no predictor", "no text"],
)
def test_without_a_predictor_or_a_text_there_is_a_counted_fallback(
    url: str | None, text: str | None, why: Fallback
) -> None:
    reports = Reports()
    assert asyncio.run(reports.client(url).ask(about(text) if text else None)).prediction is None
    assert reports.fallbacks == [why]


@pytest.mark.slow
def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    # The first answer comes after its deadline. If its connection were used again, the second
    # question would get that answer.
    async def body() -> None:
        reports = Reports()
        async with predictor(None, GOOD) as (url, _):
            client = reports.client(url, timeout_ms=1000)
            assert (await client.ask(about("one"))).prediction is None
            assert (await client.ask(about("two"))).prediction == ANSWER
            await client.aclose()

    asyncio.run(body())


@asynccontextmanager
async def slow_predictor(
    release: asyncio.Event, calls: list[list[str]] | None = None
) -> AsyncIterator[str]:
    """A server that does not answer before `release`; `calls` gets the prompts of each call."""
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                inputs = json.loads(await reader.readexactly(size))["inputs"]
                if calls is not None:
                    calls.append([one["prompt"] for one in inputs])
                await release.wait()
                writer.write(GOOD(len(inputs)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        release.set()
        server.close()
        await asyncio.gather(*(task for task in serving if task))


def test_an_answer_after_its_deadline_is_still_delivered() -> None:
    async def body() -> None:
        reports, release = Reports(), asyncio.Event()
        async with slow_predictor(release) as url:
            client = reports.client(url, timeout_ms=500)
            answer = await client.ask(about("x"))
            assert answer.prediction is None
            assert answer.late is not None
            release.set()
            assert await asyncio.wait_for(answer.late, 5) == ANSWER
            await client.aclose()
        assert reports.fallbacks == [Fallback.TIMEOUT]
        assert reports.answers == []

    asyncio.run(body())


def test_a_question_that_is_late_before_it_is_sent_is_sent_last() -> None:
    async def body() -> None:
        reports, release = Reports(), asyncio.Event()
        calls: list[list[str]] = []
        async with slow_predictor(release, calls) as url:
            client = reports.client(url, timeout_ms=500)
            prompts = [f"prompt {i}" for i in range(MAX_CALLS * MAX_BATCH + 5)]
            answers = await asyncio.gather(*(client.ask(about(prompt)) for prompt in prompts))
            fresh = asyncio.create_task(client.ask(about("fresh")))
            await asyncio.sleep(0)  # now it is queued, behind five late questions
            release.set()
            assert (await fresh).prediction == ANSWER
            late = [await asyncio.wait_for(a.late, 5) for a in answers if a.late is not None]
            assert len(late) == len(prompts)
            assert all(isinstance(one, Prediction) for one in late)
            await client.aclose()
        assert calls[MAX_CALLS:] == [["fresh"], prompts[MAX_CALLS * MAX_BATCH :]]

    asyncio.run(body())


def test_a_late_answer_that_never_comes_is_a_fallback() -> None:
    async def body() -> None:
        reports = Reports()
        async with slow_predictor(asyncio.Event()) as url:
            client = reports.client(url, timeout_ms=20)
            answer = await client.ask(about("x"))
            assert answer.late is not None
            assert await asyncio.wait_for(answer.late, 5) is Fallback.TIMEOUT
            await client.aclose()

    asyncio.run(body())


def test_the_number_of_late_answers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_client, "MAX_LATE", 3)

    async def body() -> None:
        reports, release = Reports(), asyncio.Event()
        async with slow_predictor(release) as url:
            client = reports.client(url, timeout_ms=500)
            answers = await asyncio.gather(*(client.ask(about(f"prompt {i}")) for i in range(8)))
            waited_for = [a.late for a in answers if a.late is not None]
            assert len(waited_for) == 3
            release.set()
            await asyncio.wait_for(asyncio.gather(*waited_for), 5)
            await client.aclose()
        assert reports.fallbacks == [Fallback.TIMEOUT] * 8

    asyncio.run(body())


def test_a_connection_that_the_predictor_closed_is_replaced() -> None:
    closing = answers_of(headers="Connection: close\r\n")

    async def body() -> None:
        reports = Reports()
        async with predictor(closing) as (url, received):
            client = reports.client(url)
            for _ in range(3):
                assert (await client.ask(about("x"))).prediction == ANSWER
            await client.aclose()
            assert len(received) == 3

    asyncio.run(body())


@pytest.mark.slow
def test_a_predictor_that_does_not_answer_soon_gets_no_more_requests() -> None:
    async def body() -> None:
        reports = Reports()
        async with predictor(None) as (url, received):
            client = reports.client(url, timeout_ms=100)
            started_s = time.monotonic()
            for _ in range(FAILURES_TO_OPEN + 200):
                assert (await client.ask(about("x"))).prediction is None
            took_s = time.monotonic() - started_s
            await client.aclose()
            # Each probe is one more question, and a slow machine has time for some.
            probes = 1 + int(took_s / FIRST_PAUSE_S)
            # And the last calls were running when the breaker opened.
            most = FAILURES_TO_OPEN + MAX_CALLS + probes
            assert FAILURES_TO_OPEN <= len(received) <= most
        assert reports.fallbacks.count(Fallback.OPEN) >= 150 - probes

    asyncio.run(body())


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://x", "http://"])
def test_an_invalid_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="expected a URL"):
        Reports().client(url)


def test_a_job_is_priced_by_the_predictor_and_by_the_fallback_without_it(
    make_front: Callable[..., Any],
) -> None:
    async def body() -> None:
        async with predictor(GOOD) as (url, received):
            await asyncio.to_thread(submit_and_check, make_front, url)
            [question] = [json.loads(a) for a in received]
            assert question["inputs"][0].pop("application")
        chat = [{"role": "user", "content": "Hi"}]
        assert question == {"inputs": [{"model": "org/model-1.5", "messages": chat, "view": True}]}

    asyncio.run(body())


def submit_and_check(make_front: Callable[..., Any], url: str) -> None:
    with_it = make_front(predictor_url=url, predictor_timeout_ms=5000)
    with_it.put_queue(default_tokens=77)
    predicted = with_it.http.get(f"/v1/jobs/{with_it.submit()}/explain").json()
    assert predicted["prediction"] == ANSWER.model_dump()
    assert predicted["predicted_tokens"] == pytest.approx(2)
    assert with_it.metric("predictor_latency_seconds_count") == 1
    without = make_front(predictor_url="http://127.0.0.1:1", predictor_timeout_ms=5000)
    assumed = without.http.get(f"/v1/jobs/{without.submit()}/explain").json()
    assert assumed["prediction"] is None
    assert assumed["predicted_tokens"] == 77
    assert without.metric("predictor_fallbacks_total", reason="error") == 1
    assert without.http.get(f"/v1/queues/{without.model}").json()["fallbacks"] == 1
    with_it.close()


@pytest.mark.slow
def test_answers_correct_later_predictions_and_the_explanation_shows_both(
    make_front: Callable[..., Any], until: Callable[[Callable[[], Any], str], Any]
) -> None:
    async def body() -> None:
        async with predictor(GOOD) as (url, _):
            await asyncio.to_thread(serve_and_explain, make_front, until, url)

    asyncio.run(body())


def serve_and_explain(make_front: Callable[..., Any], until: Any, url: str) -> None:
    front = make_front(predictor_url=url, predictor_timeout_ms=5000)
    front.put_queue()
    front.worker.start()  # its answers have 7 tokens, and 2 are predicted
    for job_id in [front.submit() for _ in range(40)]:
        front.ended(job_id)
    front.worker.stop()

    def corrected() -> Any:
        seen = front.http.get(f"/v1/jobs/{front.submit()}/explain").json()
        return seen if seen["calibrated"] and seen["calibration_samples"] >= 32 else None

    seen = until(corrected, "a job is priced with a correction")
    assert seen["prediction"]["p50_tokens"] == pytest.approx(ANSWER.p50_tokens, rel=1e-3)
    assert 4 < seen["calibrated"]["p50_tokens"] < 7.5
    assert seen["predicted_tokens"] > 2 * ANSWER.p50_tokens
    assert "calibration by recent answers" in seen["why"]
    assert seen["prediction_quality"] == "healthy"
    assert seen["rank_accuracy"] is None  # all predictions are equal
    # A second replica, which served none of these jobs, has the same correction.
    other = make_front(predictor_url=url, predictor_timeout_ms=5000)
    again = other.http.get(f"/v1/jobs/{other.submit()}/explain").json()
    assert again["calibrated"]["p50_tokens"] == pytest.approx(
        seen["calibrated"]["p50_tokens"], rel=0.2
    )
    view = other.http.get(f"/v1/queues/{other.model}").json()
    assert view["calibration_samples"] >= 32
    assert view["calibration_factor"] > 2
    assert view["raw_coverage"] < 0.2
    name = {"service": other.model}
    assert other.metric("predictor_calibration_factor", **name) > 2
    assert other.metric("predictor_calibration_samples", **name) >= 32
    front.close()
    other.close()


def test_a_queue_with_its_own_predictor_uses_that_one(
    make_front: Callable[..., Any],
) -> None:
    async def body() -> None:
        async with predictor(GOOD) as (shared, received), predictor(GOOD) as (own, received_own):
            await asyncio.to_thread(submit_to_three, make_front, shared, own)
            assert (len(received), len(received_own)) == (1, 1)

    asyncio.run(body())


def submit_to_three(make_front: Callable[..., Any], shared: str, own: str) -> None:
    front = make_front(predictor_url=shared, predictor_timeout_ms=5000)
    for url in (None, own, ""):  # the shared predictor, its own, none
        front.put_queue(predictor_url=url)
        front.submit()
    assert front.metric("predictor_fallbacks_total", reason="off") == 1
    front.close()


@pytest.mark.slow
def test_a_job_with_a_late_prediction_is_moved_to_its_place(
    make_front: Callable[..., Any], until: Callable[[Callable[[], Any], str], Any]
) -> None:
    async def body() -> None:
        release = asyncio.Event()
        async with slow_predictor(release) as url:
            loop = asyncio.get_running_loop()

            def submit_and_look() -> None:
                front = make_front(predictor_url=url, predictor_timeout_ms=1000)
                front.put_queue(default_tokens=77)
                job_id = front.submit()
                first = front.job(job_id)
                assert first["predicted_tokens"] == 77
                loop.call_soon_threadsafe(release.set)
                until(lambda: front.job(job_id)["predicted_tokens"] == 2, "it is priced again")
                seen = front.http.get(f"/v1/jobs/{job_id}/explain").json()
                assert seen["prediction"] == ANSWER.model_dump()
                assert seen["due_ms"] < first["due_ms"]
                until(
                    lambda: front.metric("late_predictions_total", outcome="repriced") == 1,
                    "it is counted",
                )
                front.close()

            await asyncio.to_thread(submit_and_look)

    asyncio.run(body())
