"""Simulate one policy over one workload on one engine. Called by every program that simulates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from lengthwise_contract.defaults import ANSWERS_KEPT
from lengthwise_lab.errors import BadWorkload
from lengthwise_lab.simulator.core.histograms import Histograms, new_histograms
from lengthwise_lab.simulator.core.loop import GROW, OVER, run
from lengthwise_lab.simulator.core.orders import OrderParameters, first_review
from lengthwise_lab.simulator.core.parameters import Parameters
from lengthwise_lab.simulator.core.report_bounds import BUCKET_EDGES
from lengthwise_lab.simulator.core.state import (
    FINISHED,
    FIRST_NUMBER,
    NEXT_INCOMING,
    NEXT_PROMOTION,
    NOW,
    Incoming,
    State,
    grown,
    new_state,
)
from lengthwise_lab.simulator.engines import BatchingEngine, IndependentSlots
from lengthwise_lab.simulator.policies import Policy
from lengthwise_lab.simulator.workloads.jobs import Jobs
from lengthwise_lab.simulator.workloads.predictions import tau_b
from lengthwise_queue.prediction.accuracy import Ranking
from lengthwise_queue.prediction.quality import APART
from lengthwise_queue.scheduling.policy import wait_credit_ms


@dataclass(frozen=True, kw_only=True)
class RunLimits:
    """When a run ends early, and which of its requests count.

    Attributes:
        stop_after: End after so many finished requests; None: all.
        stop_at_s: End at this simulated time, s.
        warm_up: The first so many requests are in no histogram.
        clients, think_s: A closed loop; 0 clients: an open one.
    """

    stop_after: int | None = None
    stop_at_s: float = math.inf
    warm_up: int = 0
    clients: int = 0
    think_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SimulationResult:
    """A finished simulation; summary.py makes it readable.

    Attributes:
        policy: Its name.
        state, histograms: As the loop left them.
        tau: Kendall's tau-b of the predictions with the lengths, on the first requests.
        pricing_s, running_s: The real time of computing the policy's keys, and of the loop, s.
    """

    policy: str
    state: State
    histograms: Histograms
    tau: float
    pricing_s: float
    running_s: float


def simulate(
    pieces: Iterable[Jobs],
    engine: BatchingEngine | IndependentSlots,
    policy: Policy,
    *,
    spread: float = 0.5,
    weights: tuple[float, ...] = (1.0,),
    limits: RunLimits | None = None,
    edges: tuple[int, ...] = BUCKET_EDGES,
    recorded: int = 0,
    pair_accuracy: float = 1.0,
    progress: Callable[[int], None] = lambda _: None,
) -> SimulationResult:
    """Serve the requests in the policy's order.

    Args:
        pieces: The requests, in order of arrival.
        engine: The engine that serves them.
        policy: The order.
        spread: How far predictions are off (`Predictor.spread`), for policies that use it.
        weights: The weight of each tenant.
        limits: When to end early.
        edges: Bounds of the length buckets, output tokens.
        recorded: Keep the times of the first so many requests one by one.
        pair_accuracy: The accuracy of the comparisons of `ssjf-pairwise`.
        progress: Called from time to time with the number of requests so far.

    Raises:
        BadWorkload: A request can never fit into the engine's KV blocks, or a tenant is unknown.
    """
    limits = limits or RunLimits()
    params = _parameters(engine, policy, spread, limits, pair_accuracy)
    state = new_state(
        slots=engine.slots,
        blocks=engine.kv_blocks,
        block_size=engine.block_size,
        weights=np.array(weights),
        clients=limits.clients,
    )
    state.s[NEXT_PROMOTION] = first_review(policy.kind)
    histograms = new_histograms(edges, recorded=recorded)
    arrived, tau, pricing, running, over = 0, math.nan, 0.0, 0.0, False
    remaining = iter(pieces)
    jobs = next(remaining, None)
    while jobs is not None and not over:
        following = next(remaining, None)
        if math.isnan(tau):
            tau = tau_b(jobs.output.astype(float), jobs.predicted)
            params = _with_wait_credit(params, engine, policy, jobs)
        began = time.perf_counter()
        incoming = _priced(jobs, engine, policy, spread)
        pricing += time.perf_counter() - began
        if int(incoming.tenant.max()) >= len(weights):
            raise BadWorkload(f"tenant {int(incoming.tenant.max())} has no weight")
        state.i[NEXT_INCOMING], state.i[FIRST_NUMBER] = 0, arrived
        began = time.perf_counter()
        wants = GROW
        while wants == GROW:
            wants = run(state, params, histograms, incoming, following is None)
            if wants == GROW:
                state = grown(state)
        running += time.perf_counter() - began
        over = wants == OVER
        arrived += len(jobs)
        progress(arrived)
        jobs = following
    if limits.stop_after is None and math.isinf(limits.stop_at_s) and state.i[FINISHED] < arrived:
        raise RuntimeError(
            f"{arrived - state.i[FINISHED]} requests never ended: a fault of the simulator"
        )
    return SimulationResult(
        policy=policy.name,
        state=state,
        histograms=histograms,
        tau=tau,
        pricing_s=pricing,
        running_s=running,
    )


def now_s(result: SimulationResult) -> float:
    """Return the simulated time at the end, s."""
    return float(result.state.s[NOW])


def _parameters(
    engine: BatchingEngine | IndependentSlots,
    policy: Policy,
    spread: float,
    limits: RunLimits,
    pair_accuracy: float,
) -> Parameters:
    own = {"kind": policy.kind, "pair_accuracy": pair_accuracy, **policy.order}
    if policy.table is not None:
        step = OrderParameters().table_step
        own["table"] = policy.table(np.arange(0, 20, step), spread)
    return Parameters(
        **engine.parameters(),
        order=OrderParameters(**own),
        warm_up=limits.warm_up,
        think_s=limits.think_s if limits.clients else -1.0,
        stop_after=limits.stop_after if limits.stop_after is not None else 1 << 62,
        # An integer here would compile the whole loop once more, for integers.
        stop_at_s=float(limits.stop_at_s),
    )


def _with_wait_credit(
    params: Parameters, engine: BatchingEngine | IndependentSlots, policy: Policy, jobs: Jobs
) -> Parameters:
    """Set the statistics of the last answers: the usual length, and the credit of a wait.

    A queue learns while it serves. Here the first requests stand for answers of the same kind that
    were given before.
    """
    if policy.wait_factor == 0:
        return params
    seen = jobs.part(0, ANSWERS_KEPT)
    ranking = Ranking.of(zip(seen.predicted, seen.output, strict=True), apart=APART)
    credit = wait_credit_ms(1.0, wait_factor=policy.wait_factor, rank_accuracy=ranking.accuracy)
    batched = isinstance(engine, BatchingEngine)
    usual = seen.predicted if batched else engine.work(seen.predicted)
    order = params.order._replace(wait_factor=credit, usual=float(usual.mean()))
    return params._replace(order=order)


def _priced(
    jobs: Jobs, engine: BatchingEngine | IndependentSlots, policy: Policy, spread: float
) -> Incoming:
    """Compute the arrays that compiled code reads of these requests."""
    output = jobs.output + policy.extra_tokens
    bad = engine.too_large(jobs.prompt, output)
    if bad is not None:
        raise BadWorkload(
            f"a request of {jobs.prompt[bad]} + {output[bad]} tokens can never fit into "
            f"{engine.kv_blocks} blocks of {engine.block_size}; allow more kv_blocks"
        )
    known = output.astype(np.float64)
    if policy.knows == "prediction":
        known = jobs.predicted
    predicted = engine.work(known)
    if policy.quota_quantile is None:
        quota = np.full(len(jobs), np.inf)
    else:
        factor = math.exp(float(norm.ppf(policy.quota_quantile)) * spread)
        quota = engine.work(known * factor)
    # The queue is ordered by predicted tokens, not by whole steps: fewer ties.
    batched = isinstance(engine, BatchingEngine)
    return Incoming(
        arrival_s=jobs.arrival_s,
        prompt=jobs.prompt,
        output=jobs.output,
        work=engine.work(output.astype(np.float64)),
        predicted=np.maximum(known, 1e-6) if batched else predicted,
        slack=policy.slack(known, engine.milliseconds(known)),
        quota=quota,
        tenant=jobs.tenant,
    )
