"""Fits the simulator's engine to a real one, and says how far the simulator can be believed.

Reads the `samples.jsonl` that `lengthwise bench serve --out` writes: every request with when it was
sent, its prompt and output tokens, and when it was done. Called by `lengthwise lab fit` and
`lengthwise lab check`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from scipy.optimize import least_squares

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_lab.errors import BadWorkload
from lengthwise_lab.loadtest.sweep import APART_S
from lengthwise_lab.simulator.engines import Batching
from lengthwise_lab.simulator.core.state import Floats
from lengthwise_lab.simulator.core.histograms import RECORDED
from lengthwise_lab.simulator.simulation import simulate
from lengthwise_lab.simulator.policies import policy_named
from lengthwise_lab.simulator.workloads.jobs import Jobs, jobs_of

#: The order of a queue that nobody configured.
SJF = f"due-{QueueSettings().overtake_factor:g}-wait-{QueueSettings().overtake_wait_factor:g}"
#: What the simulator calls the order in which `bench serve` served an arm.
_POLICY = {"fcfs": "fcfs", "shadow": "fcfs", "sjf-k": "due-3", "oracle": "sjf-oracle"}
_END = RECORDED.index("end_s")
#: Where the search begins, ms: a small model's step and tokens on a CPU. The search covers
#: factors of a thousand, so a GPU's are not far.
_BEGIN = {"step_ms": 10.0, "decode_ms": 1.0, "prefill_ms": 0.3, "context_ms": 1e-3}
_LEAST, _MOST = 1e-6, 1e4


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run against a real engine: one step, arm and seed; arrays are (n,), in order of arrival.

    Attributes:
        step, arm, seed: Which run of the sweep.
        jobs: The requests as the simulator wants them.
        completion_s: From when each was to be sent to its last byte, s.
    """

    step: int
    arm: str
    seed: int
    jobs: Jobs
    completion_s: Floats


@dataclass(frozen=True, kw_only=True)
class Error:
    """One figure of one run, measured and simulated, s."""

    step: int
    arm: str
    figure: str
    measured_s: float
    simulated_s: float

    @property
    def relative(self) -> float:
        """Simulated over measured, less 1."""
        return self.simulated_s / self.measured_s - 1


def read_samples(path: Path) -> list[Measured]:
    """The runs of a `samples.jsonl`; requests that failed are left out.

    Raises:
        BadWorkload: The file cannot be read, a line is no sample, or none has what is needed.
    """
    found: dict[tuple[int, str, int], list[dict[str, Any]]] = {}
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            row = json.loads(line)
            if row["error"] is not None or row["completion_s"] is None:
                continue
            if not row["output_tokens"] or not row["prompt_tokens"]:
                raise BadWorkload(
                    f"{path}, line {number}: the engine did not say how many tokens there were"
                )
            seed = int(row["due_to_send_s"] // APART_S)
            found.setdefault((row["step"], row["arm"], seed), []).append(row)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        why = exc if isinstance(exc, OSError) else f"not of `bench serve --out` ({exc!r})"
        raise BadWorkload(f"cannot read {path}: {why}") from exc
    if not found:
        raise BadWorkload(f"{path} holds no request that was answered")
    return [_measured(*key, rows) for key, rows in sorted(found.items())]


def _measured(step: int, arm: str, seed: int, rows: list[dict[str, Any]]) -> Measured:
    rows.sort(key=lambda row: (row["due_to_send_s"], row["index"]))
    arrival = np.array([row["due_to_send_s"] for row in rows])
    jobs = jobs_of(
        arrival - arrival[0],
        np.array([row["output_tokens"] for row in rows]),
        prompt=np.array([row["prompt_tokens"] for row in rows]),
    )
    predicted = np.array([row["predicted_tokens"] or row["output_tokens"] for row in rows], float)
    return Measured(
        step=step,
        arm=arm,
        seed=seed,
        jobs=jobs.with_predictions(predicted),
        completion_s=np.array([row["completion_s"] for row in rows]),
    )


def simulated(run: Measured, engine: Batching, *, sjf: str = SJF) -> Floats:
    """Completion times of a measured run's requests, as the simulator has them, (n,), s."""
    policy = policy_named(_POLICY.get(run.arm, sjf))
    outcome = simulate([run.jobs], engine, policy, recorded=len(run.jobs))
    return np.asarray(outcome.tally.record[:, _END] - run.jobs.arrival_s)


def fit(
    runs: Sequence[Measured],
    *,
    slots: int,
    token_budget: int = 2048,
    sjf: str = SJF,
) -> Batching:
    """The engine whose simulated completion times are nearest to the measured ones.

    The four times of `Batching` are sought in log space by least squares on the logarithm of
    simulated over measured, with a soft loss, so that a request that was unlucky does not decide.

    Args:
        runs: Measured runs; different loads tell the batch's cost from the step's.
        slots: `max_num_seqs` of the engine.
        token_budget: `max_num_batched_tokens` of the engine.
        sjf: What the lab calls the order of the `sjf` runs.

    Returns:
        The engine.
    """
    names = list(_BEGIN)

    def engine(logs: Floats) -> Batching:
        values = dict(zip(names, np.exp(logs).tolist(), strict=True))
        return Batching(slots=slots, token_budget=token_budget, **values)

    def residuals(logs: Floats) -> Floats:
        model = engine(logs)
        parts = [np.log(simulated(run, model, sjf=sjf) / run.completion_s) for run in runs]
        return np.concatenate(parts)

    at = np.log(list(_BEGIN.values()))
    # The order in which requests are served changes by jumps: a wide step sees past them, a narrow
    # one then finds the bottom.
    for slope_over in (0.1, 0.01, 0.001):
        at = least_squares(
            residuals,
            at,
            bounds=(np.log(_LEAST), np.log(_MOST)),
            loss="soft_l1",
            f_scale=0.1,
            diff_step=slope_over,
            max_nfev=100,
        ).x
    return engine(at)


def errors(runs: Sequence[Measured], engine: Batching, *, sjf: str = SJF) -> list[Error]:
    """How far off the simulator is, for each step and arm, all seeds together.

    Returns:
        Of mean, p50, p90 and p99 of the completion times each.
    """
    kinds = sorted({(run.step, run.arm) for run in runs})
    out = []
    for step, arm in kinds:
        same = [run for run in runs if (run.step, run.arm) == (step, arm)]
        measured = np.concatenate([run.completion_s for run in same])
        ours = np.concatenate([simulated(run, engine, sjf=sjf) for run in same])
        points = {"mean": np.mean, **{f"p{q}": _quantile(q) for q in (50, 90, 99)}}
        out += [
            Error(
                step=step,
                arm=arm,
                figure=name,
                measured_s=float(point(measured)),
                simulated_s=float(point(ours)),
            )
            for name, point in points.items()
        ]
    return out


def _quantile(percent: int) -> Any:
    return lambda values: np.quantile(values, percent / 100)


def read_engine(path: Path) -> Batching:
    """An engine that `lengthwise lab fit` wrote.

    Raises:
        BadWorkload: It cannot be read.
    """
    try:
        return Batching.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as exc:
        raise BadWorkload(f"cannot read the engine {path}: {exc}") from exc
