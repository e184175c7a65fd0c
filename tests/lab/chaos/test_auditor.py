"""The auditor records jobs and their outputs from Redis, some of them before the end of a run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from lengthwise_lab.chaos import auditor
from lengthwise_lab.chaos.history import History, read
from lengthwise_lab.chaos.system.processes import QUEUE
from lengthwise_store.jobs import Completion, NewJob, Outcome, OutcomeKind
from lengthwise_store.store import JobStore

#: More pieces than the store reads at once.
PIECES = 1_500


def new_job(job_id: str) -> NewJob:
    return NewJob(
        id=job_id,
        endpoint="/v1/chat/completions",
        body=b"{}",
        job_class="interactive",
        slack_ms=0.0,
        predicted_tokens=5.0,
        predicted_ms=100.0,
        prediction=None,
        max_attempts=3,
        delay_ms=0,
        ttl_ms=600_000,
        max_depth=10,
    )


async def end_one_of_two(store: JobStore) -> float:
    """Submit two jobs, end the first with a long output, and return when it ended, ms."""
    for job_id in ("ended", "waiting"):
        await store.submit(QUEUE, new_job(job_id))
    [claim] = await store.claim(QUEUE, worker_id="w", count=1)
    pieces = [json.dumps({"choices": [{"delta": {"content": f"{i}"}}]}) for i in range(PIECES)]
    for first in range(0, PIECES, 500):
        await store.emit(QUEUE, claim.lease, [p.encode() for p in pieces[first : first + 500]])
    await store.finish_all(
        QUEUE,
        [Completion(lease=claim.lease, outcome=Outcome(kind=OutcomeKind.OK), chunks=[])],
        worker_id="w",
    )
    job = await store.get(QUEUE, "ended")
    assert job is not None
    assert job.finished_ms is not None
    return job.finished_ms


@pytest.mark.parametrize(
    ("ago_ms", "want"), [(1.0, {"ended"}), (-1.0, set())], ids=["ended before", "ended after"]
)
def test_only_jobs_that_ended_before_a_time_are_recorded_early_and_all_of_their_output(
    redis_url: str, tmp_path: Path, ago_ms: float, want: set[str]
) -> None:
    async def scenario() -> set[str]:
        store = JobStore(redis_url)
        try:
            ended_ms = await end_one_of_two(store)
            with History(tmp_path / "history.jsonl") as history:
                return await auditor.record_jobs(
                    redis_url,
                    ["ended", "waiting", "unknown"],
                    history,
                    ended_before_ms=ended_ms + ago_ms,
                )
        finally:
            await store.aclose()

    assert asyncio.run(scenario()) == want
    events = list(read(tmp_path / "history.jsonl"))
    assert {e["id"] for e in events if e["op"] == "final"} == want
    for output in (e for e in events if e["op"] == "output"):
        texts = [entry[2] for entry in output["entries"]]
        assert texts == [*(f"{i}" for i in range(PIECES)), "succeeded"]
