"""What `lengthwise top` shows, from hand-made responses."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from lengthwise_cli.commands.top import frame, throughput
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.queue_views import (
    QueueLearningView,
    QueueView,
    SnapshotEntry,
    SnapshotView,
    WorkerView,
)
from lengthwise_contract.states import JobState

NOW_MS = 1_000_000.0


def entry(job_id: str, state: JobState, **values: object) -> SnapshotEntry:
    blank = {
        "id": job_id,
        "state": state,
        "class": "interactive",
        "predicted_tokens": 42.0,
        "output_tokens": None,
        "accepted_ms": NOW_MS - 5000,
        "due_ms": NOW_MS,
        "started_ms": None,
        "finished_ms": None,
    }
    return SnapshotEntry.model_validate({**blank, **values})


def finished(job_id: str, tokens: int | None, started_s: float, ended_s: float) -> SnapshotEntry:
    return entry(
        job_id,
        JobState.SUCCEEDED,
        output_tokens=tokens,
        started_ms=NOW_MS - 1000 * started_s,
        finished_ms=NOW_MS - 1000 * ended_s,
    )


def snapshot(*done: SnapshotEntry) -> SnapshotView:
    return SnapshotView(now_ms=NOW_MS, waiting=[], running=[], finished=list(done))


def test_throughput_counts_only_the_jobs_that_ended_in_the_window() -> None:
    old = finished("old", 9999, started_s=100, ended_s=31)
    tokens_per_s, jobs_per_s = throughput(
        snapshot(finished("a", 300, 40, 10), finished("b", 300, 20, 1), old)
    )
    assert [tokens_per_s, jobs_per_s] == pytest.approx([600 / 30, 2 / 30])


def test_throughput_of_a_new_burst_is_over_the_time_since_it_began() -> None:
    assert throughput(snapshot(finished("a", 100, started_s=4, ended_s=1)))[0] == pytest.approx(25)


def test_throughput_without_finished_jobs_is_zero() -> None:
    assert throughput(snapshot()) == (0.0, 0.0)


def queue_view(**values: object) -> QueueView:
    view = QueueView(
        name="Qwen/Qwen2.5-7B-Instruct",
        settings=QueueSettings(),
        depth=3,
        scheduled=0,
        in_flight=1,
        dead=0,
        backlog_tokens=126,
        backlog_seconds=12.5,
        oldest_wait_seconds=5,
        ms_per_token=20,
        median_tokens=40,
        accepted=5,
        succeeded=1,
        failed=0,
        cancelled=0,
        expired=0,
        fallbacks=2,
        workers=[WorkerView(id="w", slots=8, running=1, engine="vllm", seen_ms=NOW_MS)],
    )
    return view.model_copy(update=values)


def shown(view: QueueView, snapshot: SnapshotView, *, rows: int = 8) -> str:
    out = StringIO()
    Console(file=out, width=80).print(frame(view, snapshot, rows=rows))
    return out.getvalue()


def test_a_worker_whose_engine_gets_no_work_is_shown_with_its_problem() -> None:
    away = WorkerView(
        id="w2",
        slots=0,
        running=0,
        engine="vllm",
        seen_ms=NOW_MS,
        state="away",
        problem="The engine serves 'a' and not 'b'.",
    )
    snapshot = SnapshotView(now_ms=NOW_MS, waiting=[], running=[], finished=[])
    lines = shown(queue_view(workers=[away]), snapshot)
    assert "1 worker, 0 slots" in lines
    assert "worker w2: The engine serves 'a' and not 'b'." in lines


def test_a_frame_shows_the_queue_cut_to_the_rows() -> None:
    snapshot = SnapshotView(
        now_ms=NOW_MS,
        waiting=[entry(f"waiting-{i}", JobState.QUEUED) for i in range(3)],
        running=[entry("running-0", JobState.RUNNING, started_ms=NOW_MS - 2000)],
        finished=[finished("done-0", 77, started_s=3, ended_s=1)],
    )
    text = shown(queue_view(), snapshot, rows=2)
    for want in ("Qwen/Qwen2.5-7B-Instruct", "backlog 12.5 s", "waiting-1", "running-0", "77"):
        assert want in text
    assert "waiting-2" not in text


def test_a_terminal_of_80_columns_shows_whole_job_ids() -> None:
    # Ids begin with the time: when they were cut, those of a burst looked alike, and none could be
    # copied into /v1/jobs/{id}/explain.
    ids = [f"01a20042-840f-7445-b461-00000000000{i}" for i in range(3)]
    snapshot = SnapshotView(
        now_ms=NOW_MS,
        waiting=[entry(ids[0], JobState.QUEUED)],
        running=[entry(ids[1], JobState.RUNNING, started_ms=NOW_MS - 2000)],
        finished=[finished(ids[2], 77, started_s=3, ended_s=1)],
    )
    text = shown(queue_view(), snapshot)
    assert [job_id for job_id in ids if job_id in text] == ids


@pytest.mark.parametrize(
    ("values", "want"),
    [
        (
            {"settings": QueueSettings(overtake_factor=4, overtake_wait_factor=1.5)},
            "sjf, k 4, wait factor 1.5 ",
        ),
        ({"fallback": True, "active_policy": "fcfs"}, "sjf suspended"),
        ({"settings": QueueSettings(policy="fcfs")}, "  fcfs  "),
        ({"mode": "paused"}, "POST /v1/queues/Qwen/Qwen2.5-7B-Instruct/resume"),
    ],
    ids=["sjf", "suspended", "fcfs", "paused"],
)
def test_a_frame_shows_the_order_in_force(values: dict[str, object], want: str) -> None:
    assert want in shown(queue_view(**values), snapshot())


LEARNED = QueueLearningView(
    serving="learned",
    jobs=12,
    fits=2,
    fitted_jobs=12,
    fit_seconds=0.1,
    fitted_ms=NOW_MS,
    tau_static=0.24,
    tau_learned=0.62,
    tau_young=None,
    tau_served=0.61,
    accuracy_static=0.6,
    accuracy_learned=0.8,
    accuracy_young=None,
)


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ({}, "learning off"),
        (
            {"tau_b": 0.25, "learning": LEARNED.model_copy(update={"tau_served": None})},
            "tau served 0.25, learning from 12 jobs",
        ),
        (
            {"learning": LEARNED},
            "tau served 0.61, before learning 0.24  (serves learned; 12 jobs, 2 fits)",
        ),
    ],
    ids=["off", "too early", "learned"],
)
def test_a_frame_shows_the_order_of_predictions_before_and_after_learning(
    values: dict[str, object], want: str
) -> None:
    assert want in shown(queue_view(**values), snapshot())
