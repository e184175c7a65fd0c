"""`bench queue`, tiny: ours, and whatever else is installed, on a real Valkey."""

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
from lengthwise_lab.queue_bench.process_handle import answer_of
from lengthwise_lab.queue_bench.producer import LoadPlan, produce_async, produce_in_threads
from lengthwise_lab.queue_bench.server import Usage

INSTALLED = [name for name in LIBRARIES if installed_version(name) is not None]


def bench(*flags: str) -> dict[str, Any]:
    result = CliRunner().invoke(build(), ["bench", "queue", "--json", *flags])
    assert result.exit_code == 0, (result.output, result.exception)
    read = json.loads(result.stdout)
    assert isinstance(read, dict)
    return read


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


@pytest.mark.skipif(len(INSTALLED) == len(LIBRARIES), reason="all of them are installed")
def test_a_library_that_is_missing_is_listed_with_what_installs_it() -> None:
    missing = next(name for name in LIBRARIES if name not in INSTALLED)
    result = bench("--libraries", missing, "--jobs", "1", "--rounds", "1", "--depths", "")
    [row] = result["results"]
    assert (row["installed"], row["install"]) == (False, INSTALL)


def test_our_claim_is_timed_behind_lines_of_several_lengths() -> None:
    flags = ["--libraries", "lengthwise", "--jobs", "1", "--rounds", "1", "--rate", "0"]
    rows = bench(*flags, "--depths", "30,10")["depths"]
    assert [row["waiting"] for row in rows] == [10, 30]
    assert all(row["claim_p99_ms"] >= row["claim_p50_ms"] > 0 for row in rows)


def test_a_database_that_holds_something_is_refused_and_left_alone(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("precious", "1")
        result = CliRunner().invoke(build(), ["bench", "queue", "--redis-url", redis_url])
        assert isinstance(result.exception, BadChoice)
        assert client.get("precious") == b"1"


def test_a_worker_that_does_not_come_up_is_told_with_its_last_words() -> None:
    with pytest.raises(BenchProcessError, match="no library 'nonesuch'"):
        answer_of("produce", {"url": "redis://127.0.0.1:1", "library": "nonesuch", "load": {
            "warm_up": 0, "jobs": 1, "payload_bytes": 1}}, timeout_s=30)  # fmt: skip


def test_the_open_loop_counts_from_when_a_job_was_to_be_sent() -> None:
    """No coordinated omission: a loop that is held up does not move the times that follow."""
    sent: list[float] = []

    async def submit(sent_s: float, payload: str) -> None:
        sent.append(sent_s)
        if len(sent) == 1:
            time.sleep(0.05)  # noqa: ASYNC251 - the loop is held up, as by a slow library

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


def test_the_probe_leaves_the_warm_up_out_and_tells_first_and_last() -> None:
    out = io.StringIO()
    probe = Probe(warm_up=2, jobs=3, paced=2, concurrency=1, out=out)
    for _ in range(5):
        probe.job(0.0)
    for _ in range(2):
        probe.job(time.monotonic() - 1.0)
    said = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [s["event"] for s in said] == ["begun", "done", "paced"]
    assert all(wait >= 1.0 for wait in said[2]["waits_s"])


def test_what_a_job_costs_leaves_out_the_commands_of_the_one_who_measures() -> None:
    before = Usage(cpu_s=1.0, commands={"info": (5, 0.001), "zadd": (10, 0.001)})
    after = Usage(cpu_s=1.5, commands={"info": (7, 0.009), "zadd": (2010, 0.003)})
    cpu_us, commands, by_command = after.per_job(before, 1000)
    assert cpu_us == pytest.approx(500.0)
    assert commands == 2.0
    assert by_command == {"zadd": [2.0, 2.0]}
