"""A sweep over loads and seeds on a small real stack, with a measured oracle."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from lengthwise_cli.local import ports
from lengthwise_cli.local.settings import StackEngine, StackSettings
from lengthwise_cli.local.stack import Stack
from lengthwise_lab.errors import BadChoice
from lengthwise_lab.loadtest.arrivals import ArrivalKind, ArrivalProcess
from lengthwise_lab.loadtest.chart import draw_sweep
from lengthwise_lab.loadtest.client import ServiceClient
from lengthwise_lab.loadtest.compare import Arm, PolicyRun, compare
from lengthwise_lab.loadtest.driver import LoadTarget
from lengthwise_lab.loadtest.measures import Sample
from lengthwise_lab.loadtest.oracle_predictor import OraclePredictor
from lengthwise_lab.loadtest.sweep import (
    Sweep,
    SweepPlan,
    at_loads,
    join,
    measure_capacity,
    rotated,
    sweep,
)
from lengthwise_lab.loadtest.terminal_tables import render_sweep
from lengthwise_lab.loadtest.workload import Bodies, TimedRequest, chat_body


def bodies(lengths: Sequence[int]) -> Bodies:
    """Make prompts whose answers have these lengths, tokens, on the simulated engine."""
    return [
        (
            "",
            {
                **chat_body(f"Question {i}", max_tokens=1000),
                "vllm_xargs": {"output_tokens": tokens},
            },
        )
        for i, tokens in enumerate(lengths)
    ]


@pytest.mark.slow
def test_a_sweep_measures_every_policy_at_every_load_and_the_oracle_knows_the_lengths(
    tmp_path: Path,
) -> None:
    lengths = [30, 4, 18, 8, 24, 2]

    async def scenario() -> Sweep:
        settings = StackSettings(
            data_dir=tmp_path, engine=StackEngine.SIMULATED, slots=2, port=ports.find_free()
        )
        async with Stack(settings, print) as stack, ServiceClient(stack.url) as service:
            target = LoadTarget(url=stack.url, model=stack.model)
            before = (await service.queue(stack.model)).settings
            asked = bodies(lengths)
            capacity = await measure_capacity(service, target, asked, slots=2, seed=9)
            assert capacity > 0
            policies: list[Arm] = ["fcfs", "sjf", "oracle"]
            begun: list[tuple[str, int]] = []
            result = await sweep(
                service,
                target,
                asked,
                SweepPlan(
                    arrivals=at_loads(ArrivalProcess(), [2.0, 4.0], capacity),
                    count=6,
                    seeds=[1, 2],
                    policies=policies,
                ),
                slots=2,
                capacity_per_s=capacity,
                on_run=lambda arm, _, seed: begun.append((arm, seed)),
                on_done=lambda _: None,
            )
            assert begun[:3] == [("fcfs", 1), ("sjf", 1), ("oracle", 1)]
            assert begun[6:9] == [("fcfs", 2), ("oracle", 2), ("sjf", 2)]
            assert (await service.queue(stack.model)).settings == before
            return result

    result = asyncio.run(scenario())
    assert result.failed == 0
    for step, load in zip(result.steps, (2.0, 4.0), strict=True):
        assert step.pooled is not None
        assert step.pooled.offered_load == pytest.approx(load)
        assert list(step.pooled.policies) == ["fcfs", "sjf", "oracle"]
        assert step.pooled.policies["oracle"].requests == 12
        # It knows every length, so its ranking is exact.
        assert step.pooled.policies["oracle"].tau_b == pytest.approx(1.0)
        # Its gain depends on the machine; without a gain there is no share.
        share = {"sjf"} if step.pooled.ratios["oracle"]["mean"] < 1 else set()
        assert set(step.pooled.oracle_gain_share) == share
    got = json.loads(json.dumps(result.as_json()))
    assert [len(s["seeds"]) for s in got["steps"]] == [2, 2]
    assert got["steps"][0]["pooled"]["oracle"]["requests"] == 12
    assert got["steps"][0]["pooled"]["oracle_model"]["slots"] == 2
    with (tmp_path / "tables.txt").open("w") as file:
        Console(file=file, width=160).print(*render_sweep(result), sep="\n\n")
    assert "share of the oracle's gain" in (tmp_path / "tables.txt").read_text()
    draw_sweep(result, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_the_oracle_predicts_measured_lengths_and_the_median_for_other_texts() -> None:
    [(_, long), (_, short)] = bodies([100, 7])
    known = [
        (TimedRequest(index=0, body=long), 100),
        (TimedRequest(index=1, body=short), 6),
        (TimedRequest(index=2, body=short), 8),
    ]

    async def scenario() -> list[float]:
        async with OraclePredictor(known) as oracle, httpx.AsyncClient() as http:
            inputs = [
                {"model": "m", "prompt": text} for text in ("Question 0", "Question 1", "other")
            ]
            url = f"{oracle.url}/v1/predict/batch"
            answer = (await http.post(url, json={"inputs": inputs})).raise_for_status().json()
            return [p["p50_tokens"] for p in answer["predictions"]]

    assert asyncio.run(scenario()) == [100.0, 7.0, 100.0]


def test_an_oracle_without_a_run_that_measures_lengths_is_refused() -> None:
    async def scenario() -> None:
        async with ServiceClient("http://127.0.0.1:9") as service:
            await compare(
                service,
                LoadTarget(url="http://127.0.0.1:9", model="m"),
                [],
                policies=("oracle", "fcfs"),
                on_run=lambda _: None,
                on_done=lambda _: None,
            )

    with pytest.raises(BadChoice, match="needs a run under fcfs before it"):
        asyncio.run(scenario())


def test_policies_rotate_after_fcfs() -> None:
    policies: list[Arm] = ["sjf", "fcfs", "oracle", "shadow"]
    assert [rotated(policies, turn) for turn in range(3)] == [
        ["fcfs", "sjf", "oracle", "shadow"],
        ["fcfs", "oracle", "shadow", "sjf"],
        ["fcfs", "shadow", "sjf", "oracle"],
    ]
    assert rotated(["fcfs"], 5) == ["fcfs"]


def test_joined_runs_keep_every_sample_and_do_not_overlap_in_time() -> None:
    run = PolicyRun(
        policy="sjf",
        overtake_factor=3,
        samples=[Sample(index=i, due_to_send_s=float(i), completion_s=1.0) for i in range(3)],
        duration_s=10,
        fallbacks=1,
    )
    joined = join([run, replace(run, fallbacks=2)])
    assert [s.index for s in joined.samples] == [0, 1, 2, 3, 4, 5]
    assert joined.samples[3].due_to_send_s - joined.samples[2].due_to_send_s > 1e5
    assert (joined.duration_s, joined.fallbacks) == (20, 3)


def test_loads_are_shares_of_the_capacity_and_a_burst_becomes_poisson() -> None:
    [low, high] = at_loads(ArrivalProcess(), [0.5, 1.2], 4.0)
    assert {low.kind, high.kind} == {ArrivalKind.POISSON}
    assert [low.rate_per_s, high.rate_per_s] == pytest.approx([2.0, 4.8])
    [gamma] = at_loads(
        ArrivalProcess(kind=ArrivalKind.GAMMA, rate_per_s=1.0, variation=2.0), [0.5], 4.0
    )
    assert (gamma.kind, gamma.variation) == (ArrivalKind.GAMMA, 2.0)
