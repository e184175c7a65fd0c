"""Run a simulation and keep the times of every request. Called by the sources of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lengthwise_lab.reproductions.table.details import RequestTimes
from lengthwise_lab.simulator.engines import BatchingEngine, IndependentSlots
from lengthwise_lab.simulator.policies import policy_named
from lengthwise_lab.simulator.simulation import RunLimits, SimulationResult, simulate
from lengthwise_lab.simulator.workloads.jobs import Jobs
from lengthwise_lab.simulator.workloads.lengths import Lengths
from lengthwise_lab.simulator.workloads.predictions import Predictor
from lengthwise_lab.simulator.workloads.workload import Workload


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """A finished simulation, and the times of its requests."""

    result: SimulationResult
    times: RequestTimes


#: Fitted predictors, because a fit takes longer than a small run. It depends on the lengths alone.
_FITTED: dict[tuple[int, str, float | None], tuple[Lengths, Predictor]] = {}


def predicting(workload: Workload, name: str, tau: float | None) -> tuple[Workload, Predictor]:
    """Return the workload with predictions of that kind; each predictor is fitted once."""
    predicted = replace(workload, predictor=name, tau=tau)
    key = (id(workload.lengths), name, tau)
    if key not in _FITTED or _FITTED[key][0] is not workload.lengths:
        _FITTED[key] = (workload.lengths, predicted.fitted_predictor())
    return predicted, _FITTED[key][1]


def record(
    workload: Workload,
    predictor: Predictor,
    engine: BatchingEngine | IndependentSlots,
    policy: str,
    *,
    limits: RunLimits | None = None,
    **options: Any,
) -> RecordedRun:
    """Simulate a workload that fits into memory, and keep the times of every request.

    Args:
        workload: The requests.
        predictor: From `workload.fitted_predictor()`, or from a workload of the same lengths.
        engine: The engine that serves them.
        policy: A name of policies.py.
        limits: When to end early; a request that has not ended by then has no end.
        options: More arguments of `simulate`.
    """
    seen: list[Jobs] = []

    def recorded() -> Iterator[Jobs]:
        for jobs in workload.pieces(predictor):
            seen.append(jobs)
            yield jobs

    result = simulate(
        recorded(),
        engine,
        policy_named(policy),
        spread=predictor.spread,
        limits=limits,
        recorded=workload.requests,
        **options,
    )
    prompt, tokens, arrival_s = (
        np.concatenate([getattr(jobs, name) for jobs in seen]).astype(float)
        for name in ("prompt", "output", "arrival_s")
    )
    record = result.histograms.record[: len(tokens)]
    return RecordedRun(
        result=result,
        times=RequestTimes(
            arrival_s=arrival_s,
            start_s=record[:, 0],
            end_s=record[:, 2],
            alone_s=_alone_s(engine, prompt, tokens),
            tokens=tokens,
        ),
    )


def _alone_s(
    engine: BatchingEngine | IndependentSlots, prompt: np.ndarray, tokens: np.ndarray
) -> np.ndarray:
    """Return how long requests take on an idle engine, s."""
    if isinstance(engine, IndependentSlots):
        return engine.work(tokens)
    decoding = tokens * (engine.step_ms + engine.decode_ms)
    return np.asarray((decoding + prompt * engine.prefill_ms) / 1000)
