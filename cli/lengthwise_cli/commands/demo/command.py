"""`lengthwise demo`: race first come, first served against short first on a small real LLM.

`make demo` calls it. It starts its own stack on free ports and in a temporary folder: one Valkey,
one predictor and one queue service, and for each order a queue with an engine of its own. Both get
the same requests at the same moment, so that a busy moment of the machine hits both. It prints what
it measures, including the figures that got worse.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lengthwise_cli.commands.bench.measured import measured_overhead
from lengthwise_cli.commands.demo.screen import watch
from lengthwise_cli.commands.demo.summary import Summary, print_summary
from lengthwise_cli.errors import CliError
from lengthwise_cli.local import machine, ports
from lengthwise_cli.local.settings import StackSettings
from lengthwise_cli.local.stack import Stack
from lengthwise_contract.queue_settings import PolicyName
from lengthwise_lab.loadtest.applications import mixed_requests
from lengthwise_lab.loadtest.arrivals import ArrivalProcess
from lengthwise_lab.loadtest.client import ServiceClient
from lengthwise_lab.loadtest.compare import PolicyRun
from lengthwise_lab.loadtest.driver import LoadTarget, drive
from lengthwise_lab.loadtest.race import Lane, Race
from lengthwise_lab.loadtest.report import Report, build
from lengthwise_lab.loadtest.workload import Bodies, TimedRequest, bundled_bodies, mix

#: The lanes: policy -> name of its queue.
_LANES: dict[PolicyName, str] = {"fcfs": "first-come", "sjf": "short-first"}

#: Threads of each engine, at most: a model this small gains nothing from more.
_MOST_THREADS = 4

#: Pairs of requests, through the queue and directly to the engine, after the race.
_PAIRS = 4


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """A finished race. `began_s` is on the monotonic clock."""

    runs: list[PolicyRun]
    report: Report
    began_s: float
    race_s: float


def demo(
    requests: Annotated[int, typer.Option(min=2, help="Requests of the race.")] = 25,
    slots: Annotated[
        int, typer.Option(min=1, max=64, help="Requests that each engine serves at once.")
    ] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="Cap on every answer, tokens.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of the requests' order.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for result.json and the chart.")] = Path("demo"),
) -> None:
    """Race fcfs and sjf side by side on a small real LLM."""
    began_s = time.monotonic()
    console = Console(highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lengthwise-demo-") as folder:
        settings = StackSettings(
            data_dir=Path(folder),
            model=_LANES["fcfs"],
            policy="fcfs",
            slots=slots,
            port=ports.find_free(),
            # The engines share the cores equally, and one core or more is left for the rest.
            threads=min(_MOST_THREADS, max(1, (machine.usable_cores() - 1) // len(_LANES))),
            llm_niceness=1,
            drain_s=1,
            predictor_timeout_ms=5000,  # on a busy machine the burst's predictions take seconds
        )
        workload = mixed_requests(count=requests, max_tokens=max_tokens, seed=seed)
        outcome = asyncio.run(_race(settings, workload, seed, console))
    summary = Summary.of(outcome.runs, workload)
    chart = out / "chart.png"
    from lengthwise_lab.loadtest.race_chart import draw_race  # matplotlib: slow to import

    draw_race(outcome.report, outcome.runs, summary.applications, chart)
    seconds = time.monotonic() - began_s
    result = {
        **outcome.report.as_json(),
        "applications": summary.as_json(),
        "seconds": round(seconds, 1),
        "first_answer_s": round(outcome.began_s - began_s + summary.first_answer_s, 1),
        "race_s": round(outcome.race_s, 1),
    }
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print_summary(console, summary, outcome.report, seconds=seconds, out=out)
    if outcome.report.failed:
        raise CliError(f"{outcome.report.failed} requests failed; the figures leave them out")


async def _race(
    settings: StackSettings, workload: Sequence[TimedRequest], seed: int, console: Console
) -> _Outcome:
    async with (
        Stack(settings, notify=lambda line: console.print(line, markup=False)) as stack,
        ServiceClient(stack.url) as service,
    ):
        # No fallback to fcfs: the race shows what the predictor is worth.
        await stack.add_queue(_LANES["sjf"], {"policy": "sjf", "min_rank_accuracy": None})
        lanes = [
            Lane(policy=policy, target=LoadTarget(url=stack.url, model=name))
            for policy, name in _LANES.items()
        ]
        console.print("warming up ...")
        warm_up = mix(_short_bodies(), count=2 * settings.slots, seed=seed + 1)
        await asyncio.gather(
            *(drive(lane.target, warm_up, on_done=lambda _: None) for lane in lanes)
        )
        console.print(
            f"\nThe race: {len(workload)} requests at once to two equal engines, each with "
            f"SmolLM2 135M, a real LLM, and {settings.slots} answers at a time. Both get the same "
            "requests at the same moment; only the order differs.\n"
        )
        race = Race(service, lanes, workload)
        began_s = time.monotonic()
        async with watch(race, console):
            runs = await race.run()
        race_s = race.seconds
        console.print("measuring what the queue adds to the first token ...")
        engine = LoadTarget(
            url=stack.engine_url or "", model=stack.model, api_key=stack.engine_api_key
        )
        overhead = await measured_overhead(
            lanes[0].target, engine, _short_bodies(), _PAIRS, quiet=True
        )
        report = build(
            runs,
            model="SmolLM2-135M",
            slots=settings.slots,
            seed=seed,
            arrivals=ArrivalProcess(),
            overhead=overhead,
        )
    return _Outcome(runs=runs, report=report, began_s=began_s, race_s=race_s)


def _short_bodies() -> Bodies:
    """Requests of other kinds than the race's, with answers of a few tokens."""
    return [
        (kind, {**body, "cache_prompt": False})
        for kind, body in bundled_bodies(max_tokens=4)
        if kind == "short"
    ]
