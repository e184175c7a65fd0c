"""The worker as a process: signals, kill -9, exit codes, logs."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lengthwise_contract.states import JobState
from lengthwise_store.jobs import EntryKind
from lengthwise_worker.outcomes import ASKED_AGAIN

if TYPE_CHECKING:
    from tests.worker.conftest import Rig


@pytest.mark.slow
def test_a_job_whose_worker_is_killed_in_mid_stream_is_answered_by_another(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine(tokens_per_s=20.0)
        times: dict[str, Any] = {"lease_ms": 2000, "beat_ms": 300, "tick_ms": 100}
        victim = rig.process(engine.url, **times)
        await rig.submit("j1", tokens=40)

        async def streams() -> bool:
            return len(await rig.store.read_output(rig.queue, "j1")) >= 3

        await rig.until(streams)
        victim.kill()
        async with rig.working(engine.url, **times):
            entries = await rig.output("j1")
        job = await rig.job("j1")
        assert (job.state, job.attempt, job.spent) == (JobState.SUCCEEDED, 2, 2)
        kinds = [e.kind for e in entries]
        assert kinds.count(EntryKind.ATTEMPT) == 1
        assert kinds.count(EntryKind.END) == 1
        second = [e for e in entries if e.kind is EntryKind.CHUNK and e.attempt == 2]
        assert len(second) == 40

    rig.run(body)


@pytest.mark.slow
def test_a_worker_suspended_past_its_lease_aborts_its_engine_call_and_one_answer_stays(
    rig: Rig,
) -> None:
    async def body() -> None:
        engine = rig.engine(tokens_per_s=50.0)
        times: dict[str, Any] = {"lease_ms": 2000, "beat_ms": 200, "tick_ms": 100}
        stopped = rig.process(engine.url, **times)
        await rig.submit("j1", tokens=400)

        async def streams(attempt: int) -> bool:
            entries = await rig.store.read_output(rig.queue, "j1")
            return any(e.kind is EntryKind.CHUNK and e.attempt == attempt for e in entries)

        await rig.until(lambda: streams(1))
        stopped.send_signal(signal.SIGSTOP)
        async with rig.working(engine.url, **times):
            await rig.until(lambda: streams(2))
            stopped.send_signal(signal.SIGCONT)
            await rig.becomes(lambda: engine.batch.seen.aborted == 1)
            entries = await rig.output("j1")
        kinds = [e.kind for e in entries]
        assert kinds.count(EntryKind.END) == 1
        second = kinds.index(EntryKind.ATTEMPT)
        assert {e.attempt for e in entries[second:]} == {2}
        job = await rig.job("j1")
        assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)

    rig.run(body)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_a_signal_releases_the_job_without_using_up_an_attempt_and_exits_with_0(
    rig: Rig, number: signal.Signals
) -> None:
    async def body() -> None:
        engine = rig.engine(tokens_per_s=5.0)
        process = rig.process(engine.url, shutdown_grace_s=0)
        await rig.submit("j1", tokens=5000)
        await rig.becomes(lambda: engine.batch.running == 1)
        process.send_signal(number)
        await rig.becomes(lambda: process.poll() is not None)
        assert process.returncode == 0
        job = await rig.job("j1")
        # It is in the queue at once, not only when the lease ends.
        assert (job.state, job.spent) == (JobState.QUEUED, 0)
        await rig.becomes(lambda: engine.batch.seen.aborted == 1)

    rig.run(body)


@pytest.mark.slow
def test_the_file_that_lets_the_engine_end_comes_with_the_last_answer(
    rig: Rig, tmp_path: Path
) -> None:
    async def body() -> None:
        engine, file = rig.engine(tokens_per_s=40.0), tmp_path / "ended"
        file.touch()  # left by an earlier worker in the same pod
        process = rig.process(engine.url, shutdown_grace_s=30, ended_file=file)
        await rig.submit("j1", tokens=60)
        await rig.becomes(lambda: engine.batch.running == 1)
        assert not file.exists()
        process.terminate()

        def answered() -> bool:  # the process continues until the answer is complete
            assert file.exists() or process.poll() is None
            return file.exists()

        await rig.becomes(answered)
        assert (await rig.job("j1")).state is JobState.SUCCEEDED
        await rig.becomes(lambda: process.poll() is not None)

    rig.run(body)


@pytest.mark.slow
def test_a_signal_before_the_engine_is_up_ends_the_worker(
    rig: Rig, free_port: Callable[[], int]
) -> None:
    async def body() -> None:
        port = free_port()
        process = rig.process(f"http://127.0.0.1:{port}", metrics_port=(shown := free_port()))
        await rig.becomes(lambda: get(shown, "/healthz") == (200, "ok\n"))
        process.terminate()
        await rig.becomes(lambda: process.poll() is not None)
        assert process.returncode == 0

    rig.run(body)


def get(port: int, path: str) -> tuple[int, str] | None:
    """The response of a process's port; None while it does not listen."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as got:
            return got.status, got.read().decode()
    except OSError:
        return None


@pytest.mark.slow
def test_metrics_and_logs_show_the_work_and_no_text_of_a_request(
    rig: Rig, free_port: Callable[[], int]
) -> None:
    async def body() -> None:
        engine = rig.engine()
        port = free_port()
        process = rig.process(
            engine.url, metrics_port=port, engine_api_key="sk-very-secret", log_level="DEBUG"
        )
        await rig.submit("j1", tokens=6, messages=[{"role": "user", "content": "whisper"}])
        await rig.submit("j2", model="unknown-model")
        await rig.output("j1")
        await rig.output("j2")

        def shows(*lines: str) -> bool:
            got = get(port, "/metrics")
            return got is not None and set(lines) <= set(got[1].splitlines())

        await rig.becomes(
            lambda: shows(
                f"lengthwise_worker_claims_total {2 + ASKED_AGAIN:.1f}",
                'lengthwise_worker_finishes_total{outcome="ok"} 1.0',
                'lengthwise_worker_finishes_total{outcome="error"} 1.0',
                'lengthwise_worker_tokens_total{kind="output"} 6.0',
                "lengthwise_worker_engine_ttft_seconds_count 1.0",
                "lengthwise_worker_inflight 0.0",
                "lengthwise_worker_leases_lost_total 0.0",
                "lengthwise_worker_watchdog_reconnects_total 0.0",
                "lengthwise_worker_engine_healthy 1.0",
            )
        )
        process.terminate()
        log = process.communicate()[1].decode()
        lines = [json.loads(line) for line in log.splitlines()]
        finished = [x for x in lines if x["message"] == "job finished"]
        assert {x["job_id"] for x in finished} == {"j1", "j2"}
        for secret in ("whisper", "sk-very-secret", " w3"):
            assert secret not in log

    rig.run(body)


@pytest.mark.slow
def test_a_worker_waits_for_a_store_that_is_down_and_does_not_end(
    rig: Rig, free_port: Callable[[], int]
) -> None:
    async def body() -> None:
        engine = rig.engine()
        port = free_port()
        process = rig.process(
            engine.url,
            redis_url=f"redis://127.0.0.1:{port}/0",
            metrics_port=(shown := free_port()),
        )
        # The line is logged once the engine is healthy and the store is not.
        assert process.stderr is not None
        await rig.becomes(lambda: get(shown, "/healthz") is not None)
        await rig.becomes(lambda: engine.batch.seen.probes >= 2)
        assert process.poll() is None
        process.terminate()
        await rig.becomes(lambda: process.poll() is not None)
        assert process.returncode == 0
        log = process.stderr.read().decode()
        assert log.count('"message": "store unavailable"') == 1

    rig.run(body)


@pytest.mark.slow
def test_bad_settings_end_the_worker_with_code_2_and_are_named(rig: Rig) -> None:
    process = rig.process("http://127.0.0.1:1", slots=0, engine_api_key="sk-very-secret")
    log = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 2
    assert "LENGTHWISE_WORKER_SLOTS" in log
    assert "sk-very-secret" not in log


@pytest.mark.slow
def test_the_embedded_simulation_serves_without_any_engine_beside_it(rig: Rig) -> None:
    async def body() -> None:
        rig.process(None, engine="simulated", simulated_tokens_per_s=500)
        await rig.submit("j1", tokens=5)
        entries = await rig.output("j1")
        assert [e.kind for e in entries].count(EntryKind.CHUNK) == 5

    rig.run(body)
