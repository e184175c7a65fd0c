"""Fit the simulator's engine to a real one, and measure how far the simulator is off.

Both read the `samples.jsonl` that `lengthwise bench serve --out` writes: for every request the time
of sending, its prompt and output tokens, and the time of completion. Called by `lengthwise lab fit`
and `lengthwise lab check`.
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

from lengthwise_lab.errors import BadWorkload
from lengthwise_lab.loadtest.sweep import APART_S
from lengthwise_lab.simulator.core.histograms import RECORDED
from lengthwise_lab.simulator.core.state import Floats
from lengthwise_lab.simulator.engines import BatchingEngine
from lengthwise_lab.simulator.policies import DEFAULT_POLICY, K_ALONE, policy_named
from lengthwise_lab.simulator.simulation import simulate
from lengthwise_lab.simulator.workloads.jobs import Jobs, jobs_of

#: The policy for the order of each arm of `bench serve`; of `sjf` it is `DEFAULT_POLICY`, unless
#: the queue was configured.
_POLICY = {"fcfs": "fcfs", "shadow": "fcfs", "sjf-k": K_ALONE, "oracle": "sjf-oracle"}
_END = RECORDED.index("end_s")
#: The start of the search, ms: a small model's step and tokens on a CPU. The search covers factors
#: of a thousand, so the values of a GPU are within reach.
_START = {"step_ms": 10.0, "decode_ms": 1.0, "prefill_ms": 0.3, "context_ms": 1e-3}
_LEAST, _MOST = 1e-6, 1e4


@dataclass(frozen=True, kw_only=True)
class MeasuredRun:
    """One run on a real engine: one step, arm and seed; arrays are (n,), in order of arrival.

    Attributes:
        step, arm, seed: The run's place in the sweep.
        jobs: The requests in the simulator's form.
        completion_s: From the planned sending of each to its last byte, s.
    """

    step: int
    arm: str
    seed: int
    jobs: Jobs
    completion_s: Floats


@dataclass(frozen=True, kw_only=True)
class FigureError:
    """One figure of one step and arm, measured and simulated, s."""

    step: int
    arm: str
    figure: str
    measured_s: float
    simulated_s: float

    @property
    def relative(self) -> float:
        """The simulated figure over the measured one, less 1."""
        return self.simulated_s / self.measured_s - 1


def read_samples(path: Path) -> list[MeasuredRun]:
    """Read the runs of a `samples.jsonl`, without the requests that failed.

    Raises:
        BadWorkload: The file cannot be read, a line is not a sample or has no token counts, or no
            request succeeded.
    """
    found: dict[tuple[int, str, int], list[dict[str, Any]]] = {}
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            row = json.loads(line)
            if row["error"] is not None or row["completion_s"] is None:
                continue
            if not row["output_tokens"] or not row["prompt_tokens"]:
                raise BadWorkload(f"{path}, line {number}: the engine reported no token counts")
            seed = int(row["due_to_send_s"] // APART_S)
            found.setdefault((row["step"], row["arm"], seed), []).append(row)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        why = exc if isinstance(exc, OSError) else f"not from `bench serve --out` ({exc!r})"
        raise BadWorkload(f"cannot read {path}: {why}") from exc
    if not found:
        raise BadWorkload(f"{path} holds no successful request")
    return [_measured(*key, rows) for key, rows in sorted(found.items())]


def _measured(step: int, arm: str, seed: int, rows: list[dict[str, Any]]) -> MeasuredRun:
    rows.sort(key=lambda row: (row["due_to_send_s"], row["index"]))
    arrival = np.array([row["due_to_send_s"] for row in rows])
    jobs = jobs_of(
        arrival - arrival[0],
        np.array([row["output_tokens"] for row in rows]),
        prompt=np.array([row["prompt_tokens"] for row in rows]),
    )
    predicted = np.array([row["predicted_tokens"] or row["output_tokens"] for row in rows], float)
    return MeasuredRun(
        step=step,
        arm=arm,
        seed=seed,
        jobs=jobs.with_predictions(predicted),
        completion_s=np.array([row["completion_s"] for row in rows]),
    )


def simulated(run: MeasuredRun, engine: BatchingEngine, *, sjf: str = DEFAULT_POLICY) -> Floats:
    """Return the simulated completion times of a measured run's requests, (n,), s."""
    policy = policy_named(_POLICY.get(run.arm, sjf))
    result = simulate([run.jobs], engine, policy, recorded=len(run.jobs))
    return np.asarray(result.histograms.record[:, _END] - run.jobs.arrival_s)


def fit(
    runs: Sequence[MeasuredRun],
    *,
    slots: int,
    token_budget: int = 2048,
    sjf: str = DEFAULT_POLICY,
) -> BatchingEngine:
    """Return the engine whose simulated completion times are nearest to the measured ones.

    Least squares on the logarithm of simulated over measured times, over the logarithms of the four
    times of `BatchingEngine`. The loss is soft, so that a few outliers do not decide.

    Args:
        runs: Measured runs; different loads separate the cost of a batch from that of a step.
        slots: `max_num_seqs` of the engine.
        token_budget: `max_num_batched_tokens` of the engine.
        sjf: The lab's policy for the order of the `sjf` runs.

    Returns:
        The engine.
    """
    names = list(_START)

    def engine(logs: Floats) -> BatchingEngine:
        values = dict(zip(names, np.exp(logs).tolist(), strict=True))
        return BatchingEngine(slots=slots, token_budget=token_budget, **values)

    def residuals(logs: Floats) -> Floats:
        model = engine(logs)
        parts = [np.log(simulated(run, model, sjf=sjf) / run.completion_s) for run in runs]
        return np.concatenate(parts)

    at = np.log(list(_START.values()))
    # The order of service changes in jumps. A wide step looks past them, then a narrow one finds
    # the minimum.
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


def errors(
    runs: Sequence[MeasuredRun], engine: BatchingEngine, *, sjf: str = DEFAULT_POLICY
) -> list[FigureError]:
    """Compare simulated and measured completion times, for each step and arm over all seeds.

    Returns:
        The errors of their mean, p50, p90 and p99.
    """
    kinds = sorted({(run.step, run.arm) for run in runs})
    out = []
    for step, arm in kinds:
        same = [run for run in runs if (run.step, run.arm) == (step, arm)]
        measured = np.concatenate([run.completion_s for run in same])
        modelled = np.concatenate([simulated(run, engine, sjf=sjf) for run in same])
        points = {"mean": np.mean, **{f"p{q}": _quantile(q) for q in (50, 90, 99)}}
        out += [
            FigureError(
                step=step,
                arm=arm,
                figure=name,
                measured_s=float(point(measured)),
                simulated_s=float(point(modelled)),
            )
            for name, point in points.items()
        ]
    return out


def _quantile(percent: int) -> Any:
    return lambda values: np.quantile(values, percent / 100)


def read_engine(path: Path) -> BatchingEngine:
    """Read an engine that `lengthwise lab fit` wrote.

    Raises:
        BadWorkload: The file cannot be read.
    """
    try:
        return BatchingEngine.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as exc:
        raise BadWorkload(f"cannot read the engine {path}: {exc}") from exc
