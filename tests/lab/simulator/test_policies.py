"""Every policy serves every request, and each one keeps its own promise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lengthwise_lab.errors import BadChoice, BadWorkload
from lengthwise_lab.simulator.core.state import CONTEXT, FREE_BLOCKS, N_DECODE, N_RUN, N_WAIT
from lengthwise_lab.simulator.engines import BatchingEngine, IndependentSlots
from lengthwise_lab.simulator.policies import POLICIES, due_times, policy_named
from lengthwise_lab.simulator.simulation import RunLimits, SimulationResult, simulate
from lengthwise_lab.simulator.summary import summarize
from lengthwise_lab.simulator.workloads.arrivals import Burst, Closed, Gamma, OnOff
from lengthwise_lab.simulator.workloads.jobs import jobs_of
from lengthwise_lab.simulator.workloads.lengths import published
from lengthwise_lab.simulator.workloads.predictions import tau_b
from lengthwise_lab.simulator.workloads.workload import Workload
from lengthwise_queue.scheduling.policy import overtake_bound_ms, slack_ms
from lengthwise_store.fair_order import merge

#: Little memory, so that requests are also preempted when KV blocks run out.
TIGHT = BatchingEngine(
    slots=8, step_ms=20, decode_ms=0.5, prefill_ms=0.1, token_budget=256, kv_blocks=200
)
ONE = IndependentSlots(slots=1, request_ms=0, token_ms=1000)


def workload(requests: int = 600, load: float = 1.1, engine: BatchingEngine = TIGHT) -> Workload:
    lengths = published("ssjf")
    work = engine.seconds_of_work(lengths.prompt.astype(float), lengths.output.astype(float))
    return Workload(
        lengths=lengths,
        requests=requests,
        rate_per_s=load / float(work.mean()),
        predictor="noisy",
        tau=0.6,
        shares=(0.5, 0.5),
    )


def served(
    name: str, load: Workload, engine: BatchingEngine = TIGHT, **more: int
) -> SimulationResult:
    predictor = load.fitted_predictor()
    return simulate(
        load.pieces(predictor),
        engine,
        policy_named(name),
        spread=predictor.spread,
        weights=(1.0,) * len(load.shares),
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("memory", ["recompute", "swap"])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_ends_every_request_and_leaves_the_engine_empty(
    name: str, memory: str
) -> None:
    engine = TIGHT.model_copy(update={"preemption": memory, "swap_ms": 0.1})
    outcome = served(name, workload(200), engine)
    state = outcome.state
    assert summarize(outcome)["ended"] == 200
    assert [state.i[N_RUN], state.i[N_DECODE], state.i[N_WAIT]] == [0, 0, 0]
    assert state.i[FREE_BLOCKS] == 200
    assert state.s[CONTEXT] == 0
    assert not state.phases.any()
    assert (state.tenant_n == 0).all()


@pytest.mark.parametrize(
    "name", ["fcfs", "due-0", "due-0.3", "due-3", "due-30", "due-3-wait-2", "due-0-wait-9"]
)
def test_no_request_is_overtaken_by_one_that_arrived_later_than_its_slack(name: str) -> None:
    outcome = served(name, replace(workload(3000), shares=(1.0,)))
    found = summarize(outcome)["starvation"]
    # Of equal due times the first to arrive is served first, so never more than the slack.
    assert found["max_excess_s"] <= 1e-9
    assert (found["max_lag_s"] > 0) == (name not in ("fcfs", "due-0"))


def test_k_0_is_first_come_first_served_and_a_large_k_is_shortest_first() -> None:
    load = replace(workload(2000), shares=(1.0,), predictor="oracle")
    ends = {
        name: served(name, load, recorded=2000).histograms.record[:, 2]
        for name in ("fcfs", "due-0", "sjf", "due-1e9")
    }
    assert (ends["due-0"] == ends["fcfs"]).all()
    assert (ends["due-1e9"] == ends["sjf"]).all()


def test_the_due_times_are_those_of_the_product() -> None:
    tokens = np.array([3.0, 700.5, 3.0])
    want = [slack_ms(ms, policy="sjf", overtake_factor=3) / 1000 for ms in tokens * 21]
    assert due_times("sjf", 3)(tokens, tokens * 21).tolist() == want


def test_the_wait_factor_gains_what_k_alone_loses_in_a_lasting_overload() -> None:
    load = replace(workload(3000, load=1.2), shares=(1.0,))
    means = {
        name: summarize(served(name, load))["completion_s"]["mean"]
        for name in ("fcfs", "sjf-oracle", "due-3", "due-3-wait-2")
    }
    gained = {name: means["fcfs"] - means[name] for name in means}
    assert gained["due-3-wait-2"] > 2 * gained["due-3"]
    assert gained["due-3-wait-2"] > 0.45 * gained["sjf-oracle"]


def test_the_wait_earns_no_credit_when_the_predictor_is_reversed() -> None:
    load = replace(workload(1000, load=1.2), shares=(1.0,), predictor="reversed", tau=None)
    ends = [
        served(name, load, recorded=1000).histograms.record[:, 2]
        for name in ("due-3", "due-3-wait-9")
    ]
    assert (ends[0] == ends[1]).all()


@pytest.mark.parametrize("past_the_bound", [False, True], ids=["within", "past"])
def test_a_request_may_be_overtaken_up_to_the_bound_of_the_product(past_the_bound: bool) -> None:
    # A token a second, one slot. When 60 arrives, 200 runs and 100 waits: it finds 100 s of work.
    # The rest arrives much later, and makes 60 the usual length.
    output = np.array([200, 100, 60, 1] + [58] * 41)
    bound_s = overtake_bound_ms(60.0, 0.0, float(output.mean()), 2 * 100.0)
    assert 90 < bound_s < 110
    short_s = 2 + bound_s + (0.1 if past_the_bound else -0.1)
    jobs = jobs_of(np.array([0, 1, 2, short_s] + [1e4 + 100 * n for n in range(41)]), output)
    outcome = simulate([jobs], ONE, policy_named("due-0-wait-2"), recorded=45)
    starts = outcome.histograms.record[:, 0]
    assert (starts[3] > starts[2]) == past_the_bound


def test_tenants_are_served_in_the_order_of_the_product() -> None:
    rng = np.random.default_rng(2)
    output, tenant = rng.integers(1, 40, 60), rng.integers(0, 3, 60)
    jobs = jobs_of(np.zeros(60), output, tenant=tenant)
    outcome = simulate([jobs], ONE, policy_named("fair"), weights=(1.0, 2.0, 1.0), recorded=60)
    waiting = {
        str(who): [
            (int(job), float(output[job]) / (2.0 if who == 1 else 1.0))
            for job in sorted(np.flatnonzero(tenant == who), key=lambda j: (output[j], j))
        ]
        for who in range(3)
    }
    # The predictions are exact, so the correction at the end changes nothing.
    assert np.argsort(outcome.histograms.record[:, 0]).tolist() == merge(waiting, {}, 60)


def test_a_tenant_that_floods_the_queue_does_not_delay_the_other() -> None:
    output = np.full(300, 10)
    tenant = np.repeat([0, 1], [280, 20])
    arrivals = np.concatenate([np.zeros(280), np.full(20, 1.0)])
    jobs = jobs_of(arrivals, output, tenant=tenant)
    last = {
        name: simulate([jobs], ONE, policy_named(name), weights=(1.0, 1.0), recorded=300)
        .histograms.record[280:, 2]
        .max()
        for name in ("fcfs", "due-3", "fair", "vtc")
    }
    assert last["fcfs"] == last["due-3"] == 3000
    assert last["fair"] < 450
    assert last["vtc"] < 450


def test_highest_response_ratio_serves_the_longest_wait_for_its_length() -> None:
    # At 100 s: (100 - 1 + 50) / 50 = 2.98 against (100 - 90 + 6) / 6 = 2.67.
    jobs = jobs_of(np.array([0.0, 1.0, 90.0]), np.array([100, 50, 6]))
    outcome = simulate([jobs], ONE, policy_named("hrrn"), recorded=3)
    assert outcome.histograms.record[:, 0].tolist() == [0, 100, 150]


def test_the_published_aging_of_ssjf_serves_the_oldest_after_100_seconds() -> None:
    jobs = jobs_of(np.array([0.0, 1.0, 2.0]), np.array([102, 50, 6]))
    outcome = simulate([jobs], ONE, policy_named("ssjf"), recorded=3)
    assert outcome.histograms.record[:, 0].tolist() == [0, 102, 152]
    early = jobs_of(np.array([0.0, 1.0, 2.0]), np.array([90, 50, 20]))
    outcome = simulate([early], ONE, policy_named("ssjf"), recorded=3)
    assert outcome.histograms.record[:, 0].tolist() == [0, 110, 90]


def test_the_starvation_rule_of_ltr_runs_an_idle_request_after_200_steps_for_10() -> None:
    """Without the rule, a stream of short requests keeps the long one waiting."""
    engine = BatchingEngine(slots=1, step_ms=1000)
    output = np.concatenate([[30], np.full(60, 10)])
    jobs = jobs_of(np.concatenate([[0.0], np.arange(60) * 10 + 0.5]), output)
    ends = {
        name: simulate([jobs], engine, policy_named(name), recorded=61).histograms.record
        for name in ("ltr", "ltr-starvation")
    }
    assert ends["ltr"][0, 2] == ends["ltr"][:, 2].max()
    # Preempted by the first short one, it waits 200 steps, runs 10, and is preempted again.
    assert ends["ltr-starvation"][0, 3] < 230


def test_a_new_request_does_not_preempt_one_that_has_nearly_ended() -> None:
    engine = BatchingEngine(slots=1, step_ms=1000)
    jobs = jobs_of(np.array([0.0, 90.0]), np.array([100, 50]))
    limited = simulate([jobs], engine, policy_named("remaining"), spread=0.3, recorded=2)
    static = simulate([jobs], engine, policy_named("ltr"), recorded=2)
    assert limited.histograms.record[0, 2] == 100
    assert static.histograms.record[0, 2] > 140


def test_pairwise_insertion_by_a_perfect_judge_is_shortest_first() -> None:
    load = replace(workload(300), arrivals=Burst(), shares=(1.0,))
    pair = served("ssjf-pairwise", load, recorded=300).histograms.record[:, 2]
    assert pair.mean() == pytest.approx(
        served("sjf-oracle", load, recorded=300).histograms.record[:, 2].mean(), rel=0.02
    )


def test_a_request_longer_than_its_quota_is_requeued() -> None:
    engine = BatchingEngine(slots=1, step_ms=1000)
    jobs = jobs_of(np.array([0.0, 1.0]), np.array([400, 20]))
    wrong = jobs.with_predictions(np.array([50.0, 20.0]))
    ends = simulate(
        [wrong], engine, policy_named("chunks"), spread=0.1, recorded=2
    ).histograms.record
    assert ends[1, 2] < 100
    assert ends[0, 2] == pytest.approx(420, abs=2)


@pytest.mark.parametrize("tau", [0.2, 0.5, 0.8])
def test_a_noisy_predictor_reaches_its_tau_on_requests_it_was_not_fitted_to(tau: float) -> None:
    load = replace(workload(20_000), tau=tau, seed=9)
    jobs = next(load.pieces(load.fitted_predictor()))
    assert tau_b(jobs.output.astype(float), jobs.predicted) == pytest.approx(tau, abs=0.02)
    assert jobs.predicted.mean() == pytest.approx(jobs.output.mean(), rel=0.03)


@pytest.mark.parametrize(("name", "want"), [("reversed", -1), ("constant", 0), ("random", 0)])
def test_predictors_without_rank_information_have_the_tau_of_their_kind(
    name: str, want: float
) -> None:
    load = replace(workload(5000), predictor=name)
    jobs = next(load.pieces(load.fitted_predictor()))
    assert tau_b(jobs.output.astype(float), jobs.predicted) == pytest.approx(want, abs=0.03)


def test_bursty_arrivals_have_the_configured_rate() -> None:
    for arrivals in (Gamma(cv=3), OnOff(on_s=5, off_s=20)):
        load = replace(workload(200_000), arrivals=arrivals, rate_per_s=10.0, predictor="oracle")
        times = np.concatenate([p.arrival_s for p in load.pieces(load.fitted_predictor())])
        assert len(times) / times[-1] == pytest.approx(10, rel=0.1)
        assert (np.diff(times) >= 0).all()
        assert np.diff(times).std() * 10 > 1.5


def test_a_closed_loop_never_has_more_requests_than_clients() -> None:
    load = replace(workload(500), arrivals=Closed(clients=12), shares=(1.0,))
    predictor = load.fitted_predictor()
    outcome = simulate(
        load.pieces(predictor), TIGHT, policy_named("due-3"), limits=RunLimits(clients=12)
    )
    found = summarize(outcome)
    assert found["ended"] == 500
    assert 0 < found["engine"]["longest_queue"] <= 12


def test_a_request_that_can_never_fit_is_refused() -> None:
    jobs = jobs_of(np.zeros(1), np.array([5000]))
    with pytest.raises(BadWorkload, match="never fit"):
        simulate([jobs], TIGHT, policy_named("fcfs"))


def test_an_unknown_policy_is_refused_with_the_list_of_the_known() -> None:
    with pytest.raises(BadChoice, match="mlfq-aging"):
        policy_named("due-minus")
