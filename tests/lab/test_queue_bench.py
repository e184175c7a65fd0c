"""`bench queue` with tiny sizes: ours and all installed libraries, on a real Valkey."""

from __future__ import annotations

import asyncio
import io
import json
import time
from itertools import pairwise
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from lengthwise_cli.main import build
from lengthwise_lab.errors import BadChoice, BenchProcessError
from lengthwise_lab.queue_bench.library import INSTALL, LIBRARIES, installed_version
from lengthwise_lab.queue_bench.probe import Probe
from lengthwise_lab.queue_bench.process_handle import run_process
from lengthwise_lab.queue_bench.producer import LoadPlan, produce_async, produce_in_threads
from lengthwise_lab.queue_bench.server import ServerUsage

INSTALLED = [name for name in LIBRARIES if installed_version(name) is not None]


def bench(*flags: str) -> dict[str, Any]:
    result = CliRunner().invoke(build(), ["bench", "queue", "--json", *flags])
    assert result.exit_code == 0, (result.output, result.exception)
    read = json.loads(result.stdout)
    assert isinstance(read, dict)
    return read


@pytest.mark.slow
@pytest.mark.parametrize("library", INSTALLED)
def test_a_library_that_is_installed_is_measured(library: str) -> None:
    flags = ["--jobs", "60", "--rounds", "1", "--rate", "200", "--paced", "20", "--depths", ""]
    [row] = bench("--libraries", library, *flags)["results"]
    assert row["failures"] == []
    assert row["library"] == library
    positive = ["enqueue_per_s", "process_per_s", "worker_cpu_us", "redis_cpu_us", "start_p99_ms"]
    assert all(row[name] > 0 for name in positive), row
    assert row["commands_per_job"] >= 1
    assert set(row["semantics"]) >= {"acknowledged", "after_a_kill", "retries", "order"}


@pytest.mark.slow
@pytest.mark.skipif(len(INSTALLED) == len(LIBRARIES), reason="all libraries are installed")
def test_a_missing_library_is_listed_with_the_command_that_installs_it() -> None:
    missing = next(name for name in LIBRARIES if name not in INSTALLED)
    result = bench("--libraries", missing, "--jobs", "1", "--rounds", "1", "--depths", "")
    [row] = result["results"]
    assert (row["installed"], row["install"]) == (False, INSTALL)


@pytest.mark.slow
def test_our_claim_is_timed_at_several_depths_of_the_queue() -> None:
    flags = ["--libraries", "lengthwise", "--jobs", "1", "--rounds", "1", "--rate", "0"]
    rows = bench(*flags, "--depths", "30,10")["depths"]
    assert [row["waiting"] for row in rows] == [10, 30]
    assert all(row["claim_p99_ms"] >= row["claim_p50_ms"] > 0 for row in rows)


def test_a_database_with_keys_is_refused_and_not_changed(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("precious", "1")
        result = CliRunner().invoke(build(), ["bench", "queue", "--redis-url", redis_url])
        assert isinstance(result.exception, BadChoice)
        assert client.get("precious") == b"1"


def test_the_error_of_a_process_that_does_not_start_has_the_end_of_its_log() -> None:
    with pytest.raises(BenchProcessError, match="no library 'nonesuch'"):
        run_process("produce", {"url": "redis://127.0.0.1:1", "library": "nonesuch", "load": {
            "warm_up": 0, "jobs": 1, "payload_bytes": 1}}, timeout_s=30)  # fmt: skip


def test_the_open_loop_counts_from_the_due_time_of_a_job() -> None:
    # No coordinated omission: a loop that is blocked does not move the times that follow.
    sent: list[float] = []

    async def submit(sent_s: float, payload: str) -> None:
        sent.append(sent_s)
        if len(sent) == 1:
            time.sleep(0.05)  # noqa: ASYNC251 - it blocks the loop, like a slow library

    plan = LoadPlan(warm_up=0, jobs=10, payload_bytes=1, rate_per_s=1000.0)
    produced = asyncio.run(produce_async(plan, submit))
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    assert gaps == pytest.approx([0.001] * 9, abs=1e-6)
    assert produced.late_s > 0.03


def test_a_burst_in_threads_sends_every_job_once() -> None:
    sent: list[str] = []
    plan = LoadPlan(warm_up=5, jobs=21, payload_bytes=3)
    produce_in_threads(plan, lambda _, payload: sent.append(payload))
    assert sent == ["xxx"] * 26


def test_the_probe_excludes_the_warm_up_and_reports_the_first_and_the_last_job() -> None:
    out = io.StringIO()
    probe = Probe(warm_up=2, jobs=3, paced=2, concurrency=1, out=out)
    for _ in range(5):
        probe.job(0.0)
    for _ in range(2):
        probe.job(time.monotonic() - 1.0)
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [s["event"] for s in events] == ["started", "done", "paced"]
    assert [wait >= 1.0 for wait in events[2]["waits_s"]] == [True, True]


def test_the_cost_of_a_job_excludes_the_commands_of_the_measurement() -> None:
    before = ServerUsage(cpu_s=1.0, commands={"info": (5, 0.001), "zadd": (10, 0.001)})
    after = ServerUsage(cpu_s=1.5, commands={"info": (7, 0.009), "zadd": (2010, 0.003)})
    cpu_us, commands, by_command = after.per_job(before, 1000)
    assert cpu_us == pytest.approx(500.0)
    assert commands == 2.0
    assert by_command == {"zadd": [2.0, 2.0]}
