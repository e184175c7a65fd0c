"""Fitting the simulator's engine: a known one is recovered from the times that it gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lengthwise_lab.errors import BadWorkload
from lengthwise_lab.simulator.engine_fit import (
    MeasuredRun,
    errors,
    fit,
    read_engine,
    read_samples,
    simulated,
)
from lengthwise_lab.simulator.engines import BatchingEngine
from lengthwise_lab.simulator.workloads.jobs import jobs_of

TRUE = BatchingEngine(slots=8, step_ms=30.0, decode_ms=4.0, prefill_ms=0.8, context_ms=1e-3)


def workload(seed: int, *, rate_per_s: float, arm: str = "fcfs") -> MeasuredRun:
    """Return what a `bench serve` against the true engine would measure."""
    rng = np.random.default_rng(seed)
    output = rng.integers(5, 200, 150)
    jobs = jobs_of(
        np.cumsum(rng.exponential(1 / rate_per_s, 150)), output, prompt=rng.integers(10, 300, 150)
    ).with_predictions(output * rng.lognormal(0, 0.5, 150))
    run = MeasuredRun(step=0, arm=arm, seed=seed, jobs=jobs, completion_s=np.ones(150))
    exact = simulated(run, TRUE, sjf="due-3")
    return MeasuredRun(step=0, arm=arm, seed=seed, jobs=jobs, completion_s=exact)


@pytest.mark.slow
def test_a_known_engine_is_recovered_and_predicts_another_load_and_order() -> None:
    found = fit([workload(1, rate_per_s=0.5), workload(2, rate_per_s=1.5)], slots=8)
    # The times depend on the cost of a full batch and of a batch of one.
    for n in (1, 8):
        assert found.step_ms + n * found.decode_ms == pytest.approx(30 + 4 * n, rel=0.1)
    assert found.prefill_ms == pytest.approx(0.8, rel=0.3)
    other = [workload(3, rate_per_s=1.2), workload(4, rate_per_s=1.2, arm="sjf")]
    found_errors = errors(other, found)
    assert found_errors
    for error in found_errors:
        assert abs(error.relative) < 0.1, error


def test_samples_are_split_into_steps_arms_and_seeds_and_failures_are_left_out(
    tmp_path: Path,
) -> None:
    row = {
        "step": 0,
        "arm": "fcfs",
        "index": 0,
        "due_to_send_s": 1.0,
        "completion_s": 2.0,
        "error": None,
        "predicted_tokens": None,
        "prompt_tokens": 7,
        "output_tokens": 9,
    }
    rows = [
        row,
        {**row, "index": 1, "due_to_send_s": 0.5},
        {**row, "index": 2, "due_to_send_s": 1e6},
        {**row, "arm": "sjf", "predicted_tokens": 4.0},
        {**row, "error": "HTTP 500", "completion_s": None},
    ]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    first, second, third = read_samples(path)
    assert [(r.arm, r.seed, len(r.jobs)) for r in (first, second, third)] == [
        ("fcfs", 0, 2),
        ("fcfs", 1, 1),
        ("sjf", 0, 1),
    ]
    assert first.jobs.arrival_s.tolist() == [0.0, 0.5]
    assert (first.jobs.predicted.tolist(), third.jobs.predicted.tolist()) == ([9.0, 9.0], [4.0])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("{", "not from `bench serve --out`", id="not JSON"),
        pytest.param("{}", "not from `bench serve --out`", id="not a sample"),
        pytest.param("", "holds no successful request", id="empty"),
    ],
)
def test_a_file_without_samples_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(text)
    with pytest.raises(BadWorkload, match=why):
        read_samples(path)


def test_a_fitted_engine_is_stored_as_json(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    path.write_text(TRUE.model_dump_json())
    assert read_engine(path) == TRUE
    with pytest.raises(BadWorkload, match="cannot read the engine"):
        read_engine(tmp_path / "nowhere.json")
