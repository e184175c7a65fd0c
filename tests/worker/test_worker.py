"""A real worker, a real Valkey, and the simulated engine as a real HTTP server."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import redis.asyncio as redis

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.states import JobState
from lengthwise_store.jobs import Claim, EntryKind, Lease, OutputEntry
from lengthwise_store.keys import QueueKeys
from lengthwise_store.queues import Mode, QueueStats
from lengthwise_store.store import JobStore
from lengthwise_worker.engines import open_engine
from lengthwise_worker.engines.simulated.batch import Faults
from lengthwise_worker.engines.vllm import priority_of
from lengthwise_worker.errors import BadSettings, WatchdogGaveUp
from lengthwise_worker.outcomes import ASKED_AGAIN
from lengthwise_worker.worker import Worker

if TYPE_CHECKING:
    from tests.worker.conftest import Rig


def words(entries: list[OutputEntry], attempt: int = 1) -> list[str]:
    """The text of each streamed piece of an attempt, in order."""
    events = [
        json.loads(e.data) for e in entries if e.kind is EntryKind.CHUNK and e.attempt == attempt
    ]
    return [event["choices"][0]["delta"]["content"] for event in events]


def want_words(count: int) -> list[str]:
    return [f" w{i}" for i in range(count)]


def end_of(entries: list[OutputEntry]) -> dict[str, Any]:
    end = json.loads(entries[-1].data)
    assert isinstance(end, dict)
    return end


# ---------------------------------------------------------------------- answers


def test_a_streaming_job_ends_with_all_chunks_in_order(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine()
        async with rig.working(engine.url):
            await rig.submit("j1", tokens=60)
            entries = await rig.output("j1")
        assert words(entries) == want_words(60)
        assert [e.kind for e in entries].count(EntryKind.END) == 1
        assert (await rig.job("j1")).state is JobState.SUCCEEDED

    rig.run(body)


def test_the_first_chunk_arrives_while_the_engine_still_generates(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine(tokens_per_s=2.0)
        async with rig.working(engine.url):
            await rig.submit("j1", tokens=500)
            [first, *_] = await rig.store.wait_output(rig.queue, "j1", timeout_s=20)
            assert first.kind is EntryKind.CHUNK
            assert (await rig.job("j1")).state is JobState.RUNNING

    rig.run(body)


def test_a_job_that_does_not_stream_has_the_whole_body_as_its_one_chunk(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine()
        async with rig.working(engine.url):
            await rig.submit("j1", tokens=7, stream=False)
            chunk, end = await rig.output("j1")
        answer = json.loads(chunk.data)
        assert answer["choices"][0]["message"]["content"] == "".join(want_words(7))
        assert answer["usage"]["completion_tokens"] == 7
        assert end.kind is EntryKind.END

    rig.run(body)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_usage_is_counted_and_does_not_leak_into_a_stream(rig: Rig, stream: bool) -> None:
    async def body() -> None:
        engine = rig.engine()
        async with rig.working(engine.url):
            await rig.submit("j1", tokens=9, stream=stream)
            entries = await rig.output("j1")
        job = await rig.job("j1")
        assert (job.output_tokens, job.prompt_tokens) == (9, 2)
        assert end_of(entries)["output_tokens"] == 9
        if stream:
            assert not any(b"usage" in e.data for e in entries if e.kind is EntryKind.CHUNK)

    rig.run(body)


def test_a_client_that_asked_for_usage_gets_it(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine()
        async with rig.working(engine.url):
            await rig.submit("j1", tokens=3, stream_options={"include_usage": True})
            *chunks, _ = await rig.output("j1")
        events = [json.loads(c.data) for c in chunks]
        assert [e["usage"] for e in events[:-1]] == [None] * 3
        assert events[-1]["choices"] == []
        assert events[-1]["usage"]["completion_tokens"] == 3
        assert (await rig.job("j1")).output_tokens == 3

    rig.run(body)


# ---------------------------------------------------------------------- cancelled, lost


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_cancelling_a_running_job_aborts_the_engines_work(rig: Rig, stream: bool) -> None:
    async def body() -> None:
        engine = rig.engine(tokens_per_s=2.0)
        # The next heartbeat is far away: a job without a stream can only learn it from the hint.
        async with rig.working(engine.url, beat_ms=60_000, lease_ms=120_000):
            await rig.submit("j1", tokens=5000, stream=stream)
            await rig.becomes(lambda: engine.batch.running == 1)
            await rig.until(lambda: worker_is_subscribed(rig))
            await rig.store.cancel(rig.queue, "j1")
            await rig.state("j1", JobState.CANCELLED)
            await rig.becomes(lambda: engine.batch.seen.aborted == 1)
            assert engine.batch.running == 0

    rig.run(body)


async def worker_is_subscribed(rig: Rig) -> bool:
    """Whether a worker is subscribed to hints."""
    [(_, listeners)] = await rig.store.client.pubsub_numsub(QueueKeys(rig.queue).control)
    return bool(listeners)


def test_a_worker_whose_lease_is_lost_aborts_and_sends_nothing_more(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine(tokens_per_s=50.0)
        async with rig.working(engine.url, beat_ms=100) as worker:
            await rig.submit("j1", tokens=5000)
            await rig.becomes(lambda: engine.batch.running == 1)
            # Another worker gets the job: from now on the lease has another nonce.
            taken = await take_over(rig, "j1")
            await rig.becomes(lambda: engine.batch.seen.aborted == 1)
            await rig.becomes(lambda: worker.metrics.leases_lost._value.get() == 1)
            before = len(await rig.store.read_output(rig.queue, "j1"))
            job = await rig.job("j1")
            assert (job.state, job.worker) == (JobState.RUNNING, "other")
        after = await rig.store.read_output(rig.queue, "j1")
        assert len(after) == before
        assert all(e.attempt == 1 for e in after if e.kind is EntryKind.CHUNK)
        assert (await rig.job("j1")).state is JobState.RUNNING
        assert taken.attempt == 2

    rig.run(body)


async def take_over(rig: Rig, job_id: str) -> Lease:
    """Let the lease of a running job run out, by the clock, and claim the job as another worker."""
    later = JobStore(rig.redis_url)
    try:
        later.now_ms = (await rig.store.stats(rig.queue)).now_ms + 60_000
        await later.tick(rig.queue)
        async with asyncio.timeout(20):
            while not (claims := await later.claim(rig.queue, worker_id="other", count=1)):
                await later.tick(rig.queue)
    finally:
        await later.aclose()
    return claims[0].lease


# ---------------------------------------------------------------------- an engine in trouble


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
def test_a_job_that_a_busy_engine_refuses_is_put_back_without_using_up_an_attempt(
    rig: Rig, status: int
) -> None:
    async def body() -> None:
        engine = rig.engine()
        engine.batch.misbehave(Faults(status=status, retry_after_s=0.1, times=4))
        async with rig.working(engine.url, tick_ms=50):
            await rig.submit("j1", tokens=3)
            entries = await rig.output("j1")
        job = await rig.job("j1")
        # Four refusals are more than the three attempts that it had.
        assert engine.batch.seen.refused == 4
        assert (job.state, job.attempt, job.spent) == (JobState.SUCCEEDED, 5, 1)
        assert words(entries, attempt=5) == want_words(3)

    rig.run(body)


def test_a_job_whose_engine_dies_in_mid_stream_is_tried_again(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine()
        engine.batch.misbehave(Faults(cut_after_tokens=4, times=1))
        async with rig.working(engine.url, tick_ms=50):
            await rig.submit("j1", tokens=8)
            entries = await rig.output("j1")
        job = await rig.job("j1")
        assert (job.state, job.spent) == (JobState.SUCCEEDED, 2)
        assert words(entries, attempt=1) == want_words(4)
        assert words(entries, attempt=2) == want_words(8)
        kinds = [e.kind for e in entries]
        assert kinds.index(EntryKind.ATTEMPT) == 4

    rig.run(body)


def test_an_error_event_in_mid_stream_is_tried_again_when_it_is_the_engines_fault(
    rig: Rig,
) -> None:
    async def body() -> None:
        engine = rig.engine()
        engine.batch.misbehave(Faults(error_after_tokens=2, error_code=500, times=1))
        async with rig.working(engine.url, tick_ms=50):
            await rig.submit("j1", tokens=5)
            entries = await rig.output("j1")
        assert (await rig.job("j1")).spent == 2
        assert words(entries, attempt=2) == want_words(5)
        assert not any(b'"error"' in e.data for e in entries if e.kind is EntryKind.CHUNK)

    rig.run(body)


def test_an_error_event_in_mid_stream_fails_the_job_when_it_is_the_requests_fault(
    rig: Rig,
) -> None:
    async def body() -> None:
        engine = rig.engine()
        engine.batch.misbehave(Faults(error_after_tokens=2, error_code=400))
        async with rig.working(engine.url):
            await rig.submit("j1", tokens=5)
            await rig.output("j1")
        job = await rig.job("j1")
        assert (job.state, job.attempt) == (JobState.FAILED, 1)
        assert job.error is not None
        assert job.error.status == 400

    rig.run(body)


def test_a_job_that_the_engine_refuses_fails_with_the_engines_own_error(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine()
        async with rig.working(engine.url):
            await rig.submit("j1", model="unknown/model")
            entries = await rig.output("j1")
        job = await rig.job("j1")
        # It was asked about again, in case the engine was being replaced; that cost no attempt.
        assert (job.state, job.attempt, job.spent) == (JobState.FAILED, 1 + ASKED_AGAIN, 1)
        assert job.error is not None
        want = {
            "error": {
                "message": "The model `unknown/model` does not exist.",
                "type": "NotFoundError",
                "param": None,
                "code": 404,
            }
        }
        assert (job.error.status, job.error.body) == (404, want)
        assert end_of(entries)["error"]["body"] == want

    rig.run(body)


@pytest.mark.parametrize("bad", [b"[]", b"{", b'"text"'], ids=["a list", "cut off", "a string"])
def test_a_body_that_is_no_object_fails_alone(rig: Rig, bad: bytes) -> None:
    async def body() -> None:
        engine = rig.engine()
        async with rig.working(engine.url):
            await rig.submit("bad", body=bad)
            await rig.submit("good", tokens=2)
            await rig.output("bad")
            await rig.output("good")
        assert (await rig.job("bad")).state is JobState.FAILED
        assert (await rig.job("good")).state is JobState.SUCCEEDED

    rig.run(body)


@pytest.mark.slow
def test_nothing_is_claimed_for_an_unhealthy_engine_and_work_resumes_when_it_is_healthy(
    rig: Rig,
) -> None:
    async def body() -> None:
        engine = rig.engine()
        engine.batch.misbehave(Faults(unhealthy=True))
        async with rig.working(engine.url) as worker:
            await rig.submit("j1", tokens=2)
            probes = engine.batch.seen.probes
            await rig.becomes(lambda: engine.batch.seen.probes >= probes + 3)
            assert (await rig.job("j1")).attempt == 0
            assert worker.metrics.claims._value.get() == 0
            engine.batch.misbehave(Faults())
            await rig.output("j1")
        assert (await rig.job("j1")).attempt == 1

    rig.run(body)


def test_a_tick_that_fails_does_not_end_the_worker(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    # One damaged key ended every worker of the queue, again after each restart.
    async def body() -> None:
        engine = rig.engine()
        engine.batch.misbehave(Faults(unhealthy=True))
        await rig.submit("j1", tokens=2)
        async with redis.Redis.from_url(rig.redis_url) as client:
            await client.set(QueueKeys(rig.queue).delayed, "not a sorted set")
        async with rig.working(engine.url, tick_ms=100):
            await rig.becomes(lambda: "tick failed" in caplog.text)
            engine.batch.misbehave(Faults())
            await rig.output("j1")
        assert (await rig.job("j1")).state is JobState.SUCCEEDED

    rig.run(body)


def test_an_engine_that_does_not_listen_costs_no_attempt(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine()
        async with rig.working(engine.url, tick_ms=50) as worker:
            await rig.submit("j1", tokens=2)
            await rig.output("j1")
            # It dies while the worker still considers it healthy.
            engine.stop()
            rig._engines.remove(engine)
            await rig.submit("j2", tokens=2)
            await rig.becomes(lambda: worker.metrics.engine_healthy._value.get() == 0)

            async def put_back() -> bool:
                return (await rig.job("j2")).state in (JobState.QUEUED, JobState.SCHEDULED)

            await rig.until(put_back)
            assert (await rig.job("j2")).spent == 0

    rig.run(body)


# ---------------------------------------------------------------------- batching and priority


@pytest.mark.slow
@pytest.mark.parametrize(("batching", "want_peak"), [("none", 1), ("static", 3), ("continuous", 3)])
def test_a_worker_never_runs_more_jobs_at_once_than_it_may(
    rig: Rig, batching: str, want_peak: int
) -> None:
    async def body() -> None:
        engine = rig.engine(slots=16, tokens_per_s=60.0)  # slow enough for the jobs to overlap
        for i in range(9):
            await rig.submit(f"j{i}", tokens=5 + 3 * i)
        async with rig.working(engine.url, batching=batching, slots=3):
            for i in range(9):
                await rig.output(f"j{i}")
        assert engine.batch.seen.peak_running == want_peak

    rig.run(body)


def test_a_static_batch_starts_only_when_the_previous_one_has_ended(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine(slots=16)
        # In due order: a batch of lengths 2 and 60, then a batch of 2 and 2.
        for i, tokens in enumerate([2, 60, 2, 2]):
            await rig.submit(f"j{i}", tokens=tokens, slack_ms=float(i))
        async with rig.working(engine.url, batching="static", slots=2, static_wait_ms=20_000):
            jobs = []
            for i in range(4):
                await rig.output(f"j{i}")
                jobs.append(await rig.job(f"j{i}"))
        assert jobs[0].finished_ms is not None
        assert jobs[1].finished_ms is not None
        assert jobs[2].started_ms is not None
        assert jobs[0].finished_ms < jobs[1].finished_ms
        assert jobs[2].started_ms >= jobs[1].finished_ms

    rig.run(body)


def test_an_unfilled_static_batch_starts_when_it_has_waited_and_not_earlier(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine()
        # Nothing else may wake the batch early: it starts `static_wait_ms` after its first claim.
        async with rig.working(engine.url, batching="static", slots=4, static_wait_ms=400):
            await rig.submit("j1", tokens=2)
            job = await rig.state("j1", JobState.RUNNING)
            assert engine.batch.running == 0
            await rig.output("j1")
        assert job.started_ms is not None
        ended = await rig.job("j1")
        assert ended.first_output_ms is not None
        assert ended.first_output_ms - job.started_ms >= 400

    rig.run(body)


@pytest.mark.slow
def test_vllm_gets_the_due_time_as_priority_and_serves_in_the_same_order(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine(slots=1, tokens_per_s=100.0)
        slacks = [0.0, 50_000.0, 10_000.0, 40_000.0, 20_000.0, 30_000.0]
        # More slots than the engine has, so that jobs wait inside the engine.
        async with rig.working(engine.url, slots=6):
            await rig.submit("j0", tokens=300)  # the others wait before it ends
            await rig.becomes(lambda: engine.batch.running == 1)
            for i, slack in enumerate(slacks[1:], start=1):
                await rig.submit(f"j{i}", tokens=2, slack_ms=slack)
            for i in range(6):
                await rig.output(f"j{i}")
        jobs = [await rig.job(f"j{i}") for i in range(6)]
        got = [note["priority"] for note in engine.batch.seen.started]
        assert got == sorted(priority_of(job.due_ms) for job in jobs)

    rig.run(body)


def test_a_vllm_without_priority_scheduling_gets_no_priority(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine(by_priority=False)
        async with rig.working(engine.url):
            for i in range(3):
                await rig.submit(f"j{i}", tokens=2)
            for i in range(3):
                await rig.output(f"j{i}")
        jobs = [await rig.job(f"j{i}") for i in range(3)]
        assert [(j.state, j.attempt) for j in jobs] == [(JobState.SUCCEEDED, 1)] * 3
        assert len(engine.batch.seen.started) == 3
        assert all("priority" not in note["keys"] for note in engine.batch.seen.started)  # type: ignore[operator]

    rig.run(body)


# ---------------------------------------------------------------------- life


def test_the_context_of_the_model_is_filled_in_only_if_it_is_not_set(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine()

        async def filled() -> bool:
            queue = await rig.store.queue(rig.queue)
            return queue is not None and queue.settings.max_model_len is not None

        async with rig.working(engine.url):
            await rig.until(filled)
        queue = await rig.store.queue(rig.queue)
        assert queue is not None
        assert queue.settings == QueueSettings(max_model_len=8192)
        await rig.store.put_queue(rig.queue, QueueSettings(max_model_len=100))
        async with rig.working(engine.url):
            await rig.submit("j1", tokens=2)
            await rig.output("j1")
        queue = await rig.store.queue(rig.queue)
        assert queue is not None
        assert queue.settings.max_model_len == 100

    rig.run(body)


@pytest.mark.slow
def test_stopping_lets_running_jobs_finish_and_claims_no_more(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine(tokens_per_s=50.0)
        settings = rig.settings(engine.url, slots=1, shutdown_grace_s=30.0)
        worker = Worker(settings, open_engine(settings), lambda: rig.open_store(settings))
        task = asyncio.create_task(worker.run())
        await rig.submit("j1", tokens=100)
        await rig.becomes(lambda: engine.batch.running == 1)
        await rig.submit("j2", tokens=1)
        worker.stop()
        await task
        assert (await rig.job("j1")).state is JobState.SUCCEEDED
        j2 = await rig.job("j2")
        assert (j2.state, j2.attempt) == (JobState.QUEUED, 0)

    rig.run(body)


def test_a_second_stop_releases_at_once(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine(tokens_per_s=2.0)
        settings = rig.settings(engine.url, shutdown_grace_s=3600.0)
        worker = Worker(settings, open_engine(settings), lambda: rig.open_store(settings))
        task = asyncio.create_task(worker.run())
        await rig.submit("j1", tokens=5000)
        await rig.becomes(lambda: engine.batch.running == 1)
        worker.stop()
        worker.stop()
        await task
        job = await rig.job("j1")
        assert (job.state, job.spent) == (JobState.QUEUED, 0)
        await rig.becomes(lambda: engine.batch.seen.aborted == 1)

    rig.run(body)


class StoreWithoutJobs(JobStore):
    """A store whose claims find nothing, as users of other queues report after an outage."""

    async def claim(self, queue: str, *, worker_id: str, count: int) -> list[Claim]:
        return []


@pytest.mark.slow
def test_the_watchdog_reconnects_a_worker_that_claims_nothing(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine()
        settings = rig.settings(engine.url)
        stores: list[JobStore] = []

        def open_store() -> JobStore:
            kind = StoreWithoutJobs if not stores else JobStore
            stores.append(kind(rig.redis_url))
            return stores[-1]

        await rig.submit("j1", tokens=2)
        async with rig.working(settings.engine_url, open_store, watchdog_s=1.5) as worker:
            await rig.output("j1")
            assert worker.metrics.watchdog_reconnects._value.get() == 1
        assert len(stores) == 2

    rig.run(body)


def test_the_watchdog_ends_a_worker_that_new_connections_do_not_help(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine()
        settings = rig.settings(engine.url, watchdog_s=0.3)
        worker = Worker(settings, open_engine(settings), lambda: StoreWithoutJobs(rig.redis_url))
        await rig.submit("j1", tokens=2)
        with pytest.raises(WatchdogGaveUp):
            await worker.run()

    rig.run(body)


class CountingStore(JobStore):
    """Counts the reads of the watchdog."""

    reads = 0

    async def stats(self, queue: str) -> QueueStats:
        self.reads += 1
        return await super().stats(queue)


def test_a_paused_queue_with_jobs_in_it_resets_the_watchdog(rig: Rig) -> None:
    # Every worker of a queue that was paused for a minute ended with code 1, was restarted, and
    # ended again; on Kubernetes that is CrashLoopBackOff, and the queue resumes slowly.
    async def body() -> None:
        engine = rig.engine()
        settings = rig.settings(engine.url)
        stores: list[CountingStore] = []

        def open_store() -> CountingStore:
            stores.append(CountingStore(rig.redis_url))
            return stores[-1]

        await rig.store.set_mode(rig.queue, Mode.PAUSED)
        await rig.submit("j1", tokens=2)
        async with rig.working(settings.engine_url, open_store, watchdog_s=0.1) as worker:
            # Its patience is five checks: it would have opened new connections and given up.
            await rig.becomes(lambda: stores[0].reads > 15)
            await rig.store.set_mode(rig.queue, Mode.OPEN)
            await rig.output("j1")
            assert worker.metrics.watchdog_reconnects._value.get() == 0

    rig.run(body)


@pytest.mark.parametrize(
    "url", [None, "localhost:8000", "ftp://engine/"], ids=["none", "no scheme", "not http"]
)
def test_an_engine_url_that_cannot_work_is_refused_with_the_name_of_the_setting(
    rig: Rig, url: str | None
) -> None:
    async def body() -> None:
        settings = rig.settings(url)

        async def work() -> None:
            await Worker(settings, open_engine(settings), lambda: rig.open_store(settings)).run()

        with pytest.raises(BadSettings, match="LENGTHWISE_WORKER_ENGINE_URL"):
            await work()

    rig.run(body)
