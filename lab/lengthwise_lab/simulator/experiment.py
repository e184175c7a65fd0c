"""One policy over one workload on one engine. Called by everything that simulates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from lengthwise_lab.errors import BadWorkload
from lengthwise_lab.simulator.core.cost_model import Batching, Independent
from lengthwise_lab.simulator.core.loop import GROW, OVER, run
from lengthwise_lab.simulator.core.rules import MLFQ, Rules
from lengthwise_lab.simulator.core.state import (
    FINISHED,
    FIRST_NUMBER,
    NEXT_IN_CHUNK,
    NEXT_PROMOTION,
    NOW,
    Chunk,
    State,
    grown,
    new_state,
)
from lengthwise_lab.simulator.core.tally import Tally, new_tally
from lengthwise_lab.simulator.policies import Policy
from lengthwise_lab.simulator.workloads.jobs import Jobs
from lengthwise_lab.simulator.workloads.predictions import tau_b
from lengthwise_queue.prediction.accuracy import Ranking
from lengthwise_queue.prediction.quality import APART
from lengthwise_queue.scheduling.policy import wait_credit_ms

#: Answers that a queue remembers, and judges its predictor by.
ANSWERS_KEPT = 256
#: Output tokens: short, middling, long, very long.
EDGES = (64, 256, 1024)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a run ends early, and what of it counts.

    Attributes:
        stop_after: Requests that have ended.
        stop_at_s: Simulated time.
        warm_up: The first so many requests are in no tally.
        clients, think_s: A closed loop; 0: open.
    """

    stop_after: int | None = None
    stop_at_s: float = math.inf
    warm_up: int = 0
    clients: int = 0
    think_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished simulation; figures.py makes it readable.

    Attributes:
        policy: Its name.
        state, tally: As the loop left them.
        tau: Kendall's tau-b of the predictions with the lengths, on the first requests.
        pricing_s, running_s: Where the real time went: the policy's keys, the loop.
    """

    policy: str
    state: State
    tally: Tally
    tau: float
    pricing_s: float
    running_s: float


def simulate(
    pieces: Iterable[Jobs],
    engine: Batching | Independent,
    policy: Policy,
    *,
    spread: float = 0.5,
    weights: tuple[float, ...] = (1.0,),
    limits: Limits | None = None,
    edges: tuple[int, ...] = EDGES,
    recorded: int = 0,
    pair_accuracy: float = 1.0,
    progress: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Serve the requests in the policy's order.

    Args:
        pieces: The requests, in order of arrival.
        engine: What serves them.
        policy: Who is next.
        spread: How far predictions are off (`Predictor.spread`), for policies that reckon with it.
        weights: Of each tenant.
        limits: When to end early.
        edges: Bounds of the length buckets, output tokens.
        recorded: Keep the times of the first so many requests one by one.
        pair_accuracy: Of the comparisons of `ssjf-pairwise`.
        progress: Called with the number of requests that came, now and then.

    Raises:
        BadWorkload: A request can never fit into the engine's KV blocks, or a tenant is unknown.
    """
    limits = limits or Limits()
    rules = _rules(engine, policy, spread, limits, pair_accuracy)
    state = new_state(
        slots=engine.slots,
        blocks=engine.kv_blocks,
        block_size=engine.block_size,
        weights=np.array(weights),
        clients=limits.clients,
    )
    if policy.kind == MLFQ:
        state.s[NEXT_PROMOTION] = 0.0
    tally = new_tally(edges, recorded=recorded)
    came, tau, pricing, running, over = 0, math.nan, 0.0, 0.0, False
    waiting = iter(pieces)
    jobs = next(waiting, None)
    while jobs is not None and not over:
        following = next(waiting, None)
        if math.isnan(tau):
            tau = tau_b(jobs.output.astype(float), jobs.predicted)
            rules = _following_the_wait(rules, engine, policy, jobs)
        begun = time.perf_counter()
        chunk = _priced(jobs, engine, policy, spread)
        pricing += time.perf_counter() - begun
        if int(chunk.tenant.max()) >= len(weights):
            raise BadWorkload(f"tenant {int(chunk.tenant.max())} has no weight")
        state.i[NEXT_IN_CHUNK], state.i[FIRST_NUMBER] = 0, came
        begun = time.perf_counter()
        came_back = GROW
        while came_back == GROW:
            came_back = run(state, rules, tally, chunk, following is None)
            if came_back == GROW:
                state = grown(state)
        running += time.perf_counter() - begun
        over = came_back == OVER
        came += len(jobs)
        progress(came)
        jobs = following
    if limits.stop_after is None and math.isinf(limits.stop_at_s) and state.i[FINISHED] < came:
        raise RuntimeError(f"{came - state.i[FINISHED]} requests never ended: a fault of the lab")
    return Outcome(
        policy=policy.name,
        state=state,
        tally=tally,
        tau=tau,
        pricing_s=pricing,
        running_s=running,
    )


def now_s(outcome: Outcome) -> float:
    """How long it took, simulated, s."""
    return float(outcome.state.s[NOW])


def _rules(
    engine: Batching | Independent,
    policy: Policy,
    spread: float,
    limits: Limits,
    pair_accuracy: float,
) -> Rules:
    values = {**engine.rules(), **policy.rules, "kind": policy.kind}
    if policy.table is not None:
        step = Rules().table_step
        values["table"] = policy.table(np.arange(0, 20, step), spread)
    return Rules(
        **values,
        warm_up=limits.warm_up,
        think_s=limits.think_s if limits.clients else -1.0,
        stop_after=limits.stop_after if limits.stop_after is not None else 1 << 62,
        # A whole number here would compile the whole loop once more, for integers.
        stop_at_s=float(limits.stop_at_s),
        pair_accuracy=pair_accuracy,
    )


def _following_the_wait(
    rules: Rules, engine: Batching | Independent, policy: Policy, jobs: Jobs
) -> Rules:
    """With what the queue service learns from its last answers: a usual one, and what they deserve.

    It learns as it goes; here it is as if so many answers of the kind had been given before.
    """
    if policy.wait_factor == 0:
        return rules
    seen = jobs.part(0, ANSWERS_KEPT)
    ranking = Ranking.of(zip(seen.predicted, seen.output, strict=True), apart=APART)
    credit = wait_credit_ms(1.0, wait_factor=policy.wait_factor, rank_accuracy=ranking.accuracy)
    usual = seen.predicted if not isinstance(engine, Independent) else engine.work(seen.predicted)
    return rules._replace(wait_factor=credit, usual=float(usual.mean()))


def _priced(jobs: Jobs, engine: Batching | Independent, policy: Policy, spread: float) -> Chunk:
    """What compiled code wants to know of these requests."""
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
    if policy.chunk is None:
        chunk = np.full(len(jobs), np.inf)
    else:
        chunk = engine.work(known * math.exp(float(norm.ppf(policy.chunk)) * spread))
    # The line is ordered by tokens as they were predicted, not by whole steps: fewer ties.
    return Chunk(
        arrival_s=jobs.arrival_s,
        prompt=jobs.prompt,
        output=jobs.output,
        work=engine.work(output.astype(np.float64)),
        predicted=predicted if isinstance(engine, Independent) else np.maximum(known, 1e-6),
        slack=policy.slack(known, engine.milliseconds(known)),
        chunk=chunk,
        tenant=jobs.tenant,
    )
