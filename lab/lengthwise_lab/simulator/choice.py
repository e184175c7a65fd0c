"""Which k, and how far after the wait? Each candidate on many lines: its gain, and its tail.

Called by `lengthwise lab choose`; docs/decisions 0060 and 0061 argue from its table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lengthwise_lab.simulator.core.cost_model import Batching
from lengthwise_lab.simulator.experiment import simulate
from lengthwise_lab.simulator.figures import figures
from lengthwise_lab.simulator.policies import policy_named
from lengthwise_lab.simulator.workloads.lengths import published
from lengthwise_lab.simulator.workloads.workload import Workload

CANDIDATES = (
    "due-1", "due-3", "due-10", "due-30", "due-3-wait-2", "due-3-wait-3", "due-3-wait-4",
    "sjf", "hrrn",
)  # fmt: skip
SEEDS = (1, 2, 3)
#: Small and large engines; 20 ms a step, as an 8B model on one GPU.
_SMALL = Batching(slots=16, step_ms=20, decode_ms=0.5, prefill_ms=0.1)
_LARGE = Batching(slots=64, step_ms=20, decode_ms=0.2, prefill_ms=0.05)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One kind of line: an engine, how much comes, for how long, and how well it is predicted."""

    engine: Batching
    load: float
    requests: int
    tau: float = 0.6

    @property
    def name(self) -> str:
        """For a reader."""
        lasting = f"{self.requests:,} requests"
        return f"{self.engine.slots} slots, load {self.load:g}, {lasting}, tau {self.tau:g}"


LINES = (
    *(Line(engine=_SMALL, load=load, requests=20_000) for load in (0.8, 0.9, 0.95, 1.0)),
    *(Line(engine=_SMALL, load=1.2, requests=count) for count in (100, 200, 500, 2000, 20_000)),
    *(Line(engine=_SMALL, load=1.5, requests=count) for count in (500, 2000)),
    *(Line(engine=_SMALL, load=1.2, requests=2000, tau=tau) for tau in (0.2, 0.4, 0.8)),
    *(Line(engine=_SMALL, load=0.95, requests=20_000, tau=tau) for tau in (0.2, 0.4, 0.8)),
    *(Line(engine=_LARGE, load=load, requests=40_000) for load in (0.9, 0.97, 1.0)),
    Line(engine=_LARGE, load=1.2, requests=2000),
)


def choices(started: Callable[[str], None] = lambda _: None) -> Iterator[dict[str, Any]]:
    """One row a line: the oracle's cut of the mean, then for each candidate its share and tail.

    Yields:
        `line`, `oracle_cut` (share of the mean under FCFS), and `policies`: for each candidate
        `share` of that cut and `p99`, its 99th percentile over that of FCFS; means of the seeds.
    """
    for line in LINES:
        started(line.name)
        found = _measure(line)
        fcfs_mean, fcfs_p99 = found["fcfs"]
        cut = fcfs_mean - found["sjf-oracle"][0]
        yield {
            "line": line.name,
            "oracle_cut": round(cut / fcfs_mean, 4),
            "policies": {
                name: {
                    "share": round((fcfs_mean - found[name][0]) / cut, 3),
                    "p99": round(found[name][1] / fcfs_p99, 3),
                }
                for name in CANDIDATES
            },
        }


def _measure(line: Line) -> dict[str, tuple[float, float]]:
    """Mean and p99 of every policy, s, each the mean over the seeds."""
    lengths = published("ssjf")
    work = line.engine.seconds_of_work(lengths.prompt.astype(float), lengths.output.astype(float))
    workload = Workload(
        lengths=lengths,
        requests=line.requests,
        rate_per_s=line.load / float(work.mean()),
        predictor="noisy",
        tau=line.tau,
    )
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in SEEDS:
        seeded = replace(workload, seed=seed)
        predictor = seeded.fitted_predictor()
        for name in ("fcfs", "sjf-oracle", *CANDIDATES):
            outcome = simulate(seeded.pieces(predictor), line.engine, policy_named(name))
            times = figures(outcome)["completion_s"]
            found.setdefault(name, []).append((times["mean"], times["p99"]))
    return {
        name: (float(np.mean([m for m, _ in runs])), float(np.mean([p for _, p in runs])))
        for name, runs in found.items()
    }


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table: share of the oracle's gain / p99 over that of FCFS."""
    heads = ["line", "oracle cuts the mean by", *CANDIDATES]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for row in rows:
        cells = [
            f"{100 * found['share']:.0f} % / {found['p99']:.2f}"
            for found in row["policies"].values()
        ]
        lines.append("| " + " | ".join([row["line"], f"{100 * row['oracle_cut']:.1f} %", *cells]))
        lines[-1] += " |"
    return "\n".join(lines) + "\n"
