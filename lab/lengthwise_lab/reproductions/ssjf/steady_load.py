"""Shortest predicted job first where it is used: continuous batching under a steady load.

The check that SSJF's publication lacks: exact Poisson arrivals, thousands of jobs, and a load that
is stated as a share of what the slots can do. Called by ssjf_rows.py.
"""

from __future__ import annotations

import numpy as np

from lengthwise_lab.reproductions.recorded_lengths import Classified
from lengthwise_lab.reproductions.ssjf.corrected import KeyLine, Served, due_times_s, serve, served
from lengthwise_lab.reproductions.ssjf.jobs import CONSTANT_S, PER_TOKEN_S
from lengthwise_lab.reproductions.ssjf.sweeps import NAMES, as_run, class_tokens, evidence_of, lines
from lengthwise_lab.reproductions.table.details import Run, describe

JOBS, SEEDS = 2_000, 5


def run(answers: Classified, *, slots: int, load: float) -> dict[str, Served]:
    """Means over the seeds of what each scheduler makes of the same jobs.

    Args:
        answers: Where jobs and their predictions come from.
        slots: Jobs at once; a job joins as soon as one is free, and keeps it.
        load: Offered, as a share of the slots' time; above 1 the line grows to the end.

    Returns:
        By scheduler; `plain3` and `plain5` are shortest predicted first without any aging.
    """
    worth = {
        name: CONSTANT_S + PER_TOKEN_S * class_tokens(answers.tokens, classes)[classes]
        for name, classes in (("three", answers.three), ("five", answers.five))
    }
    mean_s = CONSTANT_S + PER_TOKEN_S * float(answers.tokens.mean())
    evidence = evidence_of(answers)
    runs: dict[str, list[Served]] = {}
    jobs: dict[str, list[Run]] = {}
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        arrivals = np.cumsum(rng.exponential(mean_s / (load * slots), JOBS)).tolist()
        rows = rng.choice(len(answers.tokens), size=JOBS, replace=False)
        tokens = answers.tokens[rows]
        durations = (CONSTANT_S + PER_TOKEN_S * tokens).tolist()
        three, five = worth["three"][rows].tolist(), worth["five"][rows].tolist()
        every = lines(arrivals, durations, three, five, slots=slots, evidence=evidence) | {
            "plain3": KeyLine(three),
            "plain5": KeyLine(five),
            **{
                f"ours, k={k} alone": KeyLine(due_times_s(arrivals, five, factor=k))
                for k in (3, 10, 30)
            },
        }
        for name, line in every.items():
            times = serve(arrivals, durations, line, slots=slots)
            runs.setdefault(name, []).append(served(arrivals, durations, times.ends_s))
            jobs.setdefault(name, []).append(as_run(arrivals, durations, tokens, times))
    return {
        name: Served(
            **{
                field: float(np.mean([getattr(one, field) for one in each]))
                for field in ("mean_s", "p50_s", "p99_s", "max_s", "whole_per_s")
            },
            quarters_s=tuple(np.mean([one.quarters_s for one in each], axis=0).tolist()),
            details=describe(jobs[name], policy=NAMES[name]),
        )
        for name, each in runs.items()
    }
