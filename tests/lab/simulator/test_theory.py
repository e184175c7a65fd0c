"""The simulator agrees with queueing theory, where theory has a formula."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from lengthwise_lab.simulator.engines import BatchingEngine, IndependentSlots
from lengthwise_lab.simulator.policies import policy_named
from lengthwise_lab.simulator.simulation import SimulationResult, simulate
from lengthwise_lab.simulator.summary import summarize
from lengthwise_lab.simulator.workloads.jobs import Jobs, jobs_of

COUNT = 400_000


def jobs_at(rate_per_s: float, tokens: np.ndarray, seed: int = 4) -> Jobs:
    gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, len(tokens))
    return jobs_of(np.cumsum(gaps), tokens)


def served(policy: str, jobs: Jobs, slots: int = 1) -> SimulationResult:
    """One token is one millisecond, so lengths are nearly continuous."""
    engine = IndependentSlots(kind="independent", slots=slots, request_ms=0, token_ms=1)
    return simulate([jobs], engine, policy_named(policy))


def exponential_tokens(mean: float = 1000.0, seed: int = 1) -> np.ndarray:
    drawn = np.random.default_rng(seed).exponential(mean, COUNT)
    return np.maximum(1, np.rint(drawn)).astype(np.int64)


def two_point_tokens(seed: int = 2) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(COUNT) < 0.9, 200, 8200).astype(np.int64)


@pytest.mark.parametrize("load", [0.5, 0.8])
@pytest.mark.parametrize("tokens", [exponential_tokens, two_point_tokens])
def test_first_come_first_served_waits_as_the_pollaczek_khinchine_formula_predicts(
    load: float, tokens: Callable[[], np.ndarray]
) -> None:
    size = tokens() / 1000
    rate = load / size.mean()
    want = rate * (size**2).mean() / (2 * (1 - load))
    got = summarize(served("fcfs", jobs_at(rate, tokens())))["wait_s"]["mean"]
    assert got == pytest.approx(want, rel=0.05)


def test_the_exponential_queue_has_the_quantiles_of_theory() -> None:
    got = summarize(served("fcfs", jobs_at(0.8, exponential_tokens())))["completion_s"]
    # Time in an M/M/1 is exponential with mean 1 / (mu - lambda).
    assert got["mean"] == pytest.approx(5.0, rel=0.05)
    assert got["p50"] == pytest.approx(5 * math.log(2), rel=0.05)
    assert got["p99"] == pytest.approx(5 * math.log(100), rel=0.08)


def test_shortest_first_waits_as_cobham_and_phipps_predict() -> None:
    tokens, load = two_point_tokens(), 0.8
    size = tokens / 1000
    rate = load / size.mean()
    residual = rate * (size**2).mean() / 2
    short_load = rate * (size == 0.2).mean() * 0.2
    want_short = residual / (1 - short_load)
    want_long = residual / ((1 - short_load) * (1 - load))
    outcome = served("sjf-oracle", jobs_at(rate, tokens))
    waits = outcome.histograms.sums[1]
    assert waits[2, 1] / waits[2, 0] == pytest.approx(want_short, rel=0.05)
    assert waits[4, 1] / waits[4, 0] == pytest.approx(want_long, rel=0.07)


def test_shortest_remaining_first_takes_as_long_as_schrage_and_miller_predict() -> None:
    """Their integral for exponential sizes of mean 1 s, summed numerically."""
    load = 0.8
    x = np.linspace(1e-4, 30, 60_000)
    step = x[1] - x[0]
    density = np.exp(-x)
    load_to = load * (1 - (1 + x) * np.exp(-x))
    second_to = 2 - (x**2 + 2 * x + 2) * np.exp(-x)
    waiting = load * (second_to + x**2 * np.exp(-x)) / (2 * (1 - load_to) ** 2)
    residence = np.cumsum(step / (1 - load_to))
    want = float(np.sum((waiting + residence) * density) * step)
    got = summarize(served("srpt-oracle", jobs_at(load, exponential_tokens())))
    assert got["completion_s"]["mean"] == pytest.approx(want, rel=0.03)


@pytest.mark.parametrize("slots", [2, 8])
def test_many_slots_wait_as_the_erlang_c_formula_predicts(slots: int) -> None:
    load = 0.85
    offered = load * slots
    tail = offered**slots / math.factorial(slots) / (1 - load)
    waits = tail / (sum(offered**n / math.factorial(n) for n in range(slots)) + tail)
    want = waits / (slots - offered)
    got = summarize(served("fcfs", jobs_at(offered, exponential_tokens()), slots))
    assert got["wait_s"]["mean"] == pytest.approx(want, rel=0.06)


def test_in_a_batch_that_is_never_full_each_request_takes_its_own_steps() -> None:
    engine = BatchingEngine(slots=4, step_ms=10, prefill_ms=1, token_budget=512)
    jobs = jobs_of(np.array([0.0, 100.0]), np.array([50, 1]), prompt=np.array([100, 700]))
    outcome = simulate([jobs], engine, policy_named("fcfs"), recorded=2)
    first, ttft, end = (
        outcome.histograms.record[:, 0],
        outcome.histograms.record[:, 1],
        outcome.histograms.record[:, 2],
    )
    assert first == pytest.approx([0.0, 100.0])
    # The first step computes the prompt and makes a token; 49 more steps follow.
    assert ttft == pytest.approx([0.110, 100 + 0.01 + 0.512 + 0.01 + 0.188])
    assert end == pytest.approx([0.110 + 0.490, ttft[1]])


def test_a_jump_over_many_steps_takes_as_long_as_single_steps() -> None:
    """Attention makes each step longer than the last; the sum has a closed form."""
    engine = BatchingEngine(slots=3, step_ms=10, decode_ms=2, context_ms=0.01)
    jobs = jobs_of(np.zeros(2), np.array([40, 90]), prompt=np.array([10, 20]))
    outcome = simulate([jobs], engine, policy_named("fcfs"), recorded=2)
    now, contexts, left = 0.010, [11, 21], [39, 89]  # after the step that computes the prompts
    ends = []
    while any(left):
        running = [n for n in range(2) if left[n]]
        now += (10 + 2 * len(running) + 0.01 * sum(contexts[n] for n in running)) / 1000
        for n in running:
            contexts[n] += 1
            left[n] -= 1
            if left[n] == 0:
                ends.append(now)
    assert outcome.histograms.record[:, 2] == pytest.approx(ends)
