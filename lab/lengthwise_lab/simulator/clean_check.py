"""SSJF without its simulator's artefacts: independent slots, true Poisson, nobody made to idle.

The setting is that of an independent simulation made when SSJF was studied (references/seeds.md,
the clean cross-check): service 0.1 s + 0.02 s a token, 2,000 jobs, no aging. So these rows
hold our simulator to another one, and show what SSJF's gain is when it is measured fairly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lengthwise_lab.simulator.cost_model import Independent
from lengthwise_lab.simulator.experiment import simulate
from lengthwise_lab.simulator.lengths import Lengths, published, read_lengths
from lengthwise_lab.simulator.policies import policy_named
from lengthwise_lab.simulator.workloads import Workload
from lengthwise_lab.table import Row

#: 5 seeds, as theirs were, leave 10 % of noise in the mean at load 0.9.
JOBS, SEEDS = 2000, range(20)
FILE = "lengthsonly_lmsys1m_ssjf.csv.gz"


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """One line of the cross-check: mean of FCFS in s, cuts in %, then quantiles of multi-cls."""

    slots: int
    load: float
    fcfs_s: float
    oracle: float
    cls: float
    multi: float
    p99_s: float


_SETTINGS = (
    _Setting(slots=1, load=0.7, fcfs_s=10.84, oracle=25.2, cls=15.9, multi=18.5, p99_s=59),
    _Setting(slots=1, load=0.9, fcfs_s=28.47, oracle=45.9, cls=31.5, multi=34.3, p99_s=179),
    _Setting(slots=2, load=0.9, fcfs_s=14.82, oracle=36.9, cls=24.6, multi=27.1, p99_s=78),
    _Setting(slots=8, load=0.9, fcfs_s=5.57, oracle=15.4, cls=10.5, multi=11.8, p99_s=20),
    _Setting(slots=8, load=1.2, fcfs_s=74.4, oracle=58.2, cls=36.6, multi=42.4, p99_s=516),
    _Setting(slots=32, load=0.9, fcfs_s=4.02, oracle=4.6, cls=3.1, multi=3.5, p99_s=11.7),
    _Setting(slots=32, load=1.2, fcfs_s=23.1, oracle=49.5, cls=31.6, multi=36.3, p99_s=145),
)

#: Column: the policy, and what it is told.
_RUNS = {
    "fcfs": ("fcfs", "oracle"),
    "oracle": ("sjf-oracle", "oracle"),
    "cls": ("sjf", "three"),
    "multi": ("sjf", "five"),
    "ours": ("due-3", "five"),
    "hrrn": ("hrrn", "five"),
}


def rows(data: Path | None) -> list[Row]:
    """Two rows a setting: what knowing the lengths would gain, and what SSJF's predictor gains."""
    tables = _tables(data)
    return [
        row for setting in _SETTINGS for row in _rows_of(setting, tables, real=data is not None)
    ]


def _tables(data: Path | None) -> Mapping[str, Lengths]:
    if data is None:
        return {"three": published("ssjf"), "five": published("ssjf")}
    path = data / FILE
    return {
        "three": read_lengths(path, classes="pred_class2"),
        "five": read_lengths(path, classes="pred_class5"),
    }


def _rows_of(setting: _Setting, tables: Mapping[str, Lengths], *, real: bool) -> list[Row]:
    measured = {name: _measure(setting, name, tables, real=real) for name in _RUNS}
    fcfs = measured["fcfs"]["mean"]

    def cut(name: str) -> float:
        return round(100 * (1 - measured[name]["mean"] / fcfs), 2)

    where = f"{setting.slots} slots, load {setting.load}, clean simulator"
    note = "" if real else "lengths from published quantiles, predictions of the same tau"
    common: dict[str, Any] = {
        "seed": "SSJF",
        "setting": where,
        "kind": "other simulator",
        "details": measured,
    }
    return [
        Row(
            name="FCFS: mean completion time",
            unit="s",
            theirs=setting.fcfs_s,
            reproduced=round(fcfs, 2),
            tolerance=round(measured["fcfs"]["mean_sd"], 2),
            note=note,
            **common,
        ),
        Row(
            name="oracle SJF: mean completion time, cut against FCFS",
            unit="%",
            theirs=setting.oracle,
            reproduced=cut("oracle"),
            tolerance=4.0,
            note=note,
            **common,
        ),
        Row(
            name="SSJF, 3 classes: mean completion time, cut against FCFS",
            unit="%",
            theirs=setting.cls,
            reproduced=cut("cls"),
            ours=cut("ours"),
            tolerance=4.0 if real else None,
            note=note,
            **common,
        ),
        Row(
            name="SSJF, 5 classes: mean completion time, cut against FCFS",
            unit="%",
            theirs=setting.multi,
            reproduced=cut("multi"),
            ours=cut("ours"),
            tolerance=4.0 if real else None,
            note=(note + "; " if note else "") + "ours: k = 3 with the same 5 classes",
            **common,
        ),
        Row(
            name="SSJF, 5 classes: p99 completion time",
            unit="s",
            theirs=setting.p99_s,
            reproduced=round(measured["multi"]["p99"], 1),
            ours=round(measured["ours"]["p99"], 1),
            tolerance=round(measured["multi"]["p99_sd"], 1) if real else None,
            note=f"FCFS: {measured['fcfs']['p99']:.1f} s",
            **common,
        ),
    ]


def _measure(
    setting: _Setting, name: str, tables: Mapping[str, Lengths], *, real: bool
) -> dict[str, float]:
    """Means over the seeds of a run's mean, quantiles and maximum, s."""
    policy, told = _RUNS[name]
    lengths = tables["three" if told == "three" else "five"]
    engine = Independent(kind="independent", slots=setting.slots, request_ms=100, token_ms=20)
    work = engine.seconds_of_work(lengths.prompt.astype(float), lengths.output.astype(float))
    workload = Workload(
        lengths=lengths,
        requests=JOBS,
        rate_per_s=setting.load / float(work.mean()),
        predictor="oracle" if told == "oracle" else "recorded" if real else "noisy",
        tau={"three": 0.567, "five": 0.635}.get(told),
    )
    predictor = workload.fitted_predictor()
    found = []
    for seed in SEEDS:
        jobs = next(replace(workload, seed=seed).pieces(predictor))
        outcome = simulate([jobs], engine, policy_named(policy), recorded=JOBS)
        times = outcome.tally.record[:, 2] - jobs.arrival_s
        found.append([times.mean(), *np.quantile(times, (0.5, 0.99)), times.max()])
    mean, p50, p99, largest = (float(value) for value in np.mean(found, axis=0))
    # Theirs is a mean of 5 runs and ours of 20: two standard errors of the difference are
    # 2 * sqrt(1/5 + 1/20) = 1 standard deviation of a run.
    mean_sd, _, p99_sd, _ = (float(value) for value in np.std(found, axis=0, ddof=1))
    return {
        "mean": mean,
        "p50": p50,
        "p99": p99,
        "max": largest,
        "mean_sd": mean_sd,
        "p99_sd": p99_sd,
    }
