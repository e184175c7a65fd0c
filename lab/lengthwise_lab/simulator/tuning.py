"""Compare candidates for k and the wait factor: their gain and their tail on many workloads.

Called by `lengthwise lab choose`; docs/decisions 0060 and 0061 argue from its table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lengthwise_lab.simulator.engines import BatchingEngine
from lengthwise_lab.simulator.policies import policy_named
from lengthwise_lab.simulator.simulation import simulate
from lengthwise_lab.simulator.summary import summarize
from lengthwise_lab.simulator.workloads.lengths import published
from lengthwise_lab.simulator.workloads.workload import Workload

CANDIDATES = (
    "due-1", "due-3", "due-10", "due-30", "due-3-wait-2", "due-3-wait-3", "due-3-wait-4",
    "sjf", "hrrn",
)  # fmt: skip
SEEDS = (1, 2, 3)
#: Small and large engines; 20 ms a step, as an 8B model on one GPU.
_SMALL = BatchingEngine(slots=16, step_ms=20, decode_ms=0.5, prefill_ms=0.1)
_LARGE = BatchingEngine(slots=64, step_ms=20, decode_ms=0.2, prefill_ms=0.05)


@dataclass(frozen=True, kw_only=True)
class TuningCase:
    """One workload: an engine, its load, the number of requests, and the predictor's tau-b."""

    engine: BatchingEngine
    load: float
    requests: int
    tau: float = 0.6

    @property
    def name(self) -> str:
        """The case in words."""
        lasting = f"{self.requests:,} requests"
        return f"{self.engine.slots} slots, load {self.load:g}, {lasting}, tau {self.tau:g}"


CASES = (
    *(TuningCase(engine=_SMALL, load=load, requests=20_000) for load in (0.8, 0.9, 0.95, 1.0)),
    *(TuningCase(engine=_SMALL, load=1.2, requests=n) for n in (100, 200, 500, 2000, 20_000)),
    *(TuningCase(engine=_SMALL, load=1.5, requests=n) for n in (500, 2000)),
    *(TuningCase(engine=_SMALL, load=1.2, requests=2000, tau=tau) for tau in (0.2, 0.4, 0.8)),
    *(TuningCase(engine=_SMALL, load=0.95, requests=20_000, tau=tau) for tau in (0.2, 0.4, 0.8)),
    *(TuningCase(engine=_LARGE, load=load, requests=40_000) for load in (0.9, 0.97, 1.0)),
    TuningCase(engine=_LARGE, load=1.2, requests=2000),
)


def compare_candidates(started: Callable[[str], None] = lambda _: None) -> Iterator[dict[str, Any]]:
    """Simulate every candidate on every case.

    Args:
        started: Called with the name of each case before it runs.

    Yields:
        `workload`; `oracle_cut`: by what share the oracle cuts the mean of FCFS; `policies`: for
        each candidate `share` of that cut and `p99`, its 99th percentile over that of FCFS. All
        are means over `SEEDS`.
    """
    for case in CASES:
        started(case.name)
        found = _measure(case)
        fcfs_mean, fcfs_p99 = found["fcfs"]
        cut = fcfs_mean - found["sjf-oracle"][0]
        yield {
            "workload": case.name,
            "oracle_cut": round(cut / fcfs_mean, 4),
            "policies": {
                name: {
                    "share": round((fcfs_mean - found[name][0]) / cut, 3),
                    "p99": round(found[name][1] / fcfs_p99, 3),
                }
                for name in CANDIDATES
            },
        }


def _measure(case: TuningCase) -> dict[str, tuple[float, float]]:
    """Return mean and p99 of every policy, s, each the mean over `SEEDS`."""
    lengths = published("ssjf")
    work = case.engine.seconds_of_work(lengths.prompt.astype(float), lengths.output.astype(float))
    workload = Workload(
        lengths=lengths,
        requests=case.requests,
        rate_per_s=case.load / float(work.mean()),
        predictor="noisy",
        tau=case.tau,
    )
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in SEEDS:
        seeded = replace(workload, seed=seed)
        predictor = seeded.fitted_predictor()
        for name in ("fcfs", "sjf-oracle", *CANDIDATES):
            result = simulate(seeded.pieces(predictor), case.engine, policy_named(name))
            times = summarize(result)["completion_s"]
            found.setdefault(name, []).append((times["mean"], times["p99"]))
    return {
        name: (float(np.mean([m for m, _ in runs])), float(np.mean([p for _, p in runs])))
        for name, runs in found.items()
    }


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table: share of the oracle's gain / p99 over that of FCFS."""
    heads = ["workload", "oracle cuts the mean by", *CANDIDATES]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for row in rows:
        cells = [
            f"{100 * found['share']:.0f} % / {found['p99']:.2f}"
            for found in row["policies"].values()
        ]
        cut = f"{100 * row['oracle_cut']:.1f} %"
        lines.append("| " + " | ".join([row["workload"], cut, *cells]) + " |")
    return "\n".join(lines) + "\n"
