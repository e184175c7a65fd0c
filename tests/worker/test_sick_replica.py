"""Two replicas, one of them sick: the other serves everything, and the sick one comes back."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.scripted_engine import Script, ScriptedEngine, as_json

from lengthwise_contract.queue_views import WorkerView
from lengthwise_contract.states import JobState
from lengthwise_store.jobs import EntryKind
from lengthwise_worker.engines.simulated.batch import Faults

if TYPE_CHECKING:
    from tests.worker.conftest import Rig

#: Jobs of each test: more than the sick replica has slots, several times.
JOBS = 20

SICK: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "404": {"status": 404},
    "another model": {"model": "other"},
    "garbage": {"garbage": "bytes"},
    "an error in mid answer": {"error_after_tokens": 2},
    "hang": {"hang": True},
    "hang in mid answer": {"hang_after_tokens": 2},
}


async def workers_of(rig: Rig) -> list[WorkerView]:
    return (await rig.store.stats(rig.queue)).workers


async def problem_of(rig: Rig, worker_id: str) -> str:
    """The problem that a worker publishes, once it does."""

    async def published() -> bool:
        return any(w.id == worker_id and w.problem for w in await workers_of(rig))

    await rig.until(published)
    [worker] = [w for w in await workers_of(rig) if w.id == worker_id]
    assert worker.slots == 0
    return worker.problem or ""


async def healed(rig: Rig, worker_id: str) -> None:
    async def gets_work() -> bool:
        return any(w.id == worker_id and w.slots for w in await workers_of(rig))

    await rig.until(gets_work)


@pytest.mark.slow
@pytest.mark.parametrize("way", SICK)
def test_the_healthy_replica_serves_all_and_the_sick_one_comes_back(
    rig: Rig, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of 80 jobs, a replica that answered 500 sent 64 to the dead letters, while the other one
    # worked: it failed a job in milliseconds and took the next.
    monkeypatch.setattr("lengthwise_worker.breaker.FIRST_PAUSE_S", 0.3)

    async def body() -> None:
        well, sick = rig.engine(tokens_per_s=100.0), rig.engine(tokens_per_s=100.0)
        sick.batch.misbehave(Faults(**SICK[way]))
        # A hang is found within the patience, which the timeout of a call bounds.
        fields: dict[str, Any] = {"beat_ms": 200, "tick_ms": 100, "engine_timeout_s": 1.0}
        async with (
            rig.working(well.url, worker_id="well", **fields),
            rig.working(sick.url, worker_id="sick", **fields) as worker,
        ):
            for number in range(JOBS):
                await rig.submit(f"job-{number:02d}", tokens=20)
            jobs = [await rig.state(f"job-{n:02d}", JobState.SUCCEEDED) for n in range(JOBS)]
            assert {job.worker for job in jobs} == {"well"}
            # At most the first of those that failed together spent its attempt, and each trial.
            assert sum(job.spent > 1 for job in jobs) <= 2
            sick.batch.misbehave(Faults())
            await healed(rig, "sick")
            await rig.becomes(lambda: worker.metrics.engine_healthy._value.get() == 1)
            for number in range(JOBS):
                await rig.submit(f"more-{number:02d}", tokens=20)
            more = [await rig.state(f"more-{n:02d}", JobState.SUCCEEDED) for n in range(JOBS)]
            assert {job.worker for job in more} == {"well", "sick"}

    rig.run(body)


def test_a_worker_of_another_model_says_both_names_and_publishes_nothing(rig: Rig) -> None:
    # It said "engine healthy", published the context of the other model, and failed every job.
    async def body() -> None:
        engine = rig.engine()
        engine.batch.misbehave(Faults(model="other/model"))
        async with rig.working(engine.url, worker_id="w", beat_ms=100) as worker:
            await rig.submit("j1")
            problem = await problem_of(rig, "w")
            assert "'other/model'" in problem
            assert repr(rig.queue) in problem
            assert worker.metrics.engine_healthy._value.get() == 0
            queue = await rig.store.queue(rig.queue)
            assert queue is not None
            assert queue.settings.max_model_len is None
            assert (await rig.job("j1")).attempt == 0
            engine.batch.misbehave(Faults())
            await rig.state("j1", JobState.SUCCEEDED)

            async def published() -> bool:
                queue = await rig.store.queue(rig.queue)
                return queue is not None and queue.settings.max_model_len == 8192

            await rig.until(published)

    rig.run(body)


@pytest.mark.slow
def test_a_job_that_breaks_its_engine_alone_ends_and_the_others_are_served(rig: Rig) -> None:
    async def body() -> None:
        def plan(path: str, body: dict[str, Any]) -> Script:
            if "poison" in json.dumps(body):
                return as_json({"error": "the engine broke"}, status=500)
            return as_json({"choices": [{"index": 0, "message": {"content": "y"}}]})

        async with (
            ScriptedEngine(plan, models=[rig.queue]).listening() as engine,
            rig.working(engine.url, engine="openai", tick_ms=50) as worker,
        ):
            poison = [{"role": "user", "content": "poison"}]
            await rig.submit("bad", stream=False, messages=poison)
            for number in range(20):
                await rig.submit(f"good-{number}", stream=False)
            for number in range(20):
                job = await rig.state(f"good-{number}", JobState.SUCCEEDED)
                assert job.spent == 1
            bad = await rig.state("bad", JobState.FAILED)
            assert (bad.spent, bad.max_attempts) == (3, 3)
            assert bad.error is not None
            assert bad.error.body == {"error": "the engine broke"}
            assert not worker._watch.breaker.is_open

    rig.run(body)


@pytest.mark.slow
def test_a_job_that_crashes_every_engine_ends_and_takes_no_other_with_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All jobs of an engine that crashes fail together. One at a time, the culprit is found.
    monkeypatch.setattr("lengthwise_worker.breaker.FIRST_PAUSE_S", 0.3)

    async def body() -> None:
        crashed_until = 0.0

        def plan(path: str, body: dict[str, Any]) -> Script:
            nonlocal crashed_until
            now = time.monotonic()
            if "poison" in json.dumps(body):
                crashed_until = now + 0.4
            if now < crashed_until:
                return as_json({"error": "out of memory"}, status=500)
            return as_json({"choices": [{"index": 0, "message": {"content": "y"}}]})

        async with (
            ScriptedEngine(plan, models=[rig.queue]).listening() as engine,
            rig.working(engine.url, engine="openai", tick_ms=50),
        ):
            poison = [{"role": "user", "content": "poison"}]
            await rig.submit("bad", stream=False, messages=poison)
            for number in range(12):
                await rig.submit(f"good-{number}", stream=False)
            for number in range(12):
                await rig.state(f"good-{number}", JobState.SUCCEEDED)
            await rig.state("bad", JobState.FAILED)

    rig.run(body)


def test_a_request_for_a_model_that_no_engine_has_fails_with_the_engines_own_404(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine()
        async with rig.working(engine.url) as worker:
            await rig.submit("j1", model="unknown/model", stream=False)
            job = await rig.state("j1", JobState.FAILED)
            assert job.error is not None
            assert (job.error.status, job.spent) == (404, 1)
            assert not worker._watch.breaker.is_open

    rig.run(body)


@pytest.mark.slow
def test_a_replica_without_work_is_found_well_again_by_its_probe(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine()
        engine.batch.misbehave(Faults(status=500))
        async with rig.working(engine.url, worker_id="w", beat_ms=100, tick_ms=50):
            await rig.submit("j1", tokens=3)
            assert "500" in await problem_of(rig, "w")
            job = await rig.job("j1")
            assert (job.state, job.spent) == (JobState.QUEUED, 0)
            await rig.store.cancel(rig.queue, "j1")
            engine.batch.misbehave(Faults())
            await healed(rig, "w")
            await rig.submit("j2", tokens=3)
            entries = await rig.output("j2")
        assert [e.kind for e in entries].count(EntryKind.CHUNK) == 3

    rig.run(body)


def test_an_engine_that_lists_no_models_serves_after_a_probe(rig: Rig) -> None:
    async def body() -> None:
        answer = as_json({"choices": [{"index": 0, "message": {"content": "y"}}]})
        async with (
            ScriptedEngine(answer, models=[]).listening() as engine,
            rig.working(engine.url, engine="openai"),
        ):
            await rig.submit("j1", stream=False)
            await rig.state("j1", JobState.SUCCEEDED)
        assert engine.bodies[0]["max_tokens"] == 1

    rig.run(body)
