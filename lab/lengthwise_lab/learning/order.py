"""Simulate what an order by predicted lengths gains, beside an oracle's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lengthwise_lab.simulator.policies import DEFAULT_POLICY, policy_named
from lengthwise_lab.simulator.simulation import simulate
from lengthwise_lab.simulator.summary import summarize
from lengthwise_lab.simulator.tuning import CASES
from lengthwise_lab.simulator.workloads.jobs import Jobs, jobs_of

#: 16 slots of an 8B model on one GPU, as in the choice of the default policy.
_ENGINE = CASES[0].engine

#: Requests of a simulation by load: an overload lasts, an ordinary load has many small queues.
_REQUESTS = {0.95: 8000, 1.2: 2000}

_SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Gain:
    """What an order gains.

    Attributes:
        share: Of what the oracle, shortest first, takes off the mean of first come, first served.
        p99_ratio: The 99th percentile of the completion time over that of first come, first served.
    """

    share: float
    p99_ratio: float


def gains(
    tokens: Sequence[int],
    prompt_tokens: Sequence[int],
    prices: dict[str, Sequence[float]],
    *,
    load: float,
    policy: str = DEFAULT_POLICY,
    requests: int | None = None,
) -> dict[str, Gain]:
    """Serve jobs that are drawn from these, in the order of each price.

    Args:
        tokens: Real length of each job.
        prompt_tokens: Length of its prompt.
        prices: By name, the expected length of each job.
        load: Offered work over the engine's capacity.
        policy: Name of the policy in the lab.
        requests: How many are drawn; None: as fits the load.
    """
    output, prompt = np.array(tokens, np.int64), np.array(prompt_tokens, np.int64)
    work = float(_ENGINE.seconds_of_work(prompt.astype(float), output.astype(float)).mean())
    count = requests or _REQUESTS.get(load, 4000)
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in _SEEDS:
        rng = np.random.default_rng(seed)
        rows = rng.integers(0, len(output), count)
        arrival_s = np.cumsum(rng.exponential(work / load, count))
        jobs = jobs_of(arrival_s, output[rows], prompt=prompt[rows])
        found.setdefault("fcfs", []).append(_times(jobs, "fcfs"))
        found.setdefault("sjf-oracle", []).append(_times(jobs, "sjf-oracle"))
        for name, price in prices.items():
            priced = jobs.with_predictions(np.array(price, np.float64)[rows])
            found.setdefault(f"price {name}", []).append(_times(priced, policy))
    means = {name: np.mean(times, axis=0) for name, times in found.items()}
    fcfs, cut = means["fcfs"], means["fcfs"][0] - means["sjf-oracle"][0]
    return {
        name: Gain(
            share=float((fcfs[0] - means[f"price {name}"][0]) / cut) if cut > 0 else 0.0,
            p99_ratio=float(means[f"price {name}"][1] / fcfs[1]),
        )
        for name in prices
    }


def _times(jobs: Jobs, policy: str) -> tuple[float, float]:
    """Return mean and p99 of the completion time, s."""
    times = summarize(simulate([jobs], _ENGINE, policy_named(policy)))["completion_s"]
    return times["mean"], times["p99"]
