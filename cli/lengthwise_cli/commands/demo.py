"""`lengthwise demo`: send one burst to a real LLM, first come first served, then short first.

`make demo` calls it. It starts its own stack on free ports and in a temporary folder. It prints
what it measures, including the figures that got worse.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lengthwise_cli.commands.bench.measured import compared, measured_overhead
from lengthwise_cli.errors import CliError
from lengthwise_cli.local import ports
from lengthwise_cli.local.settings import StackSettings
from lengthwise_cli.local.stack import Stack
from lengthwise_lab.loadtest.arrivals import ArrivalProcess
from lengthwise_lab.loadtest.client import ServiceClient
from lengthwise_lab.loadtest.compare import Arm, PolicyRun
from lengthwise_lab.loadtest.driver import LoadTarget, drive
from lengthwise_lab.loadtest.report import Report, build
from lengthwise_lab.loadtest.terminal_tables import render
from lengthwise_lab.loadtest.workload import Bodies, bundled_bodies, mix

_POLICIES: tuple[Arm, ...] = ("fcfs", "sjf")

#: Requests sent twice, through the queue and directly to the engine.
_PAIRS = 15


def demo(
    requests: Annotated[int, typer.Option(min=1, help="Requests in the burst.")] = 64,
    slots: Annotated[int, typer.Option(min=1, max=64, help="Requests served at once.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="Cap on every answer, tokens.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the requests' order.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for result.json and the chart.")] = Path("demo"),
) -> None:
    """Compare fcfs and sjf on a small real LLM, on this machine."""
    from lengthwise_lab.loadtest.chart import (
        draw,  # matplotlib: half of what any command takes to start
    )

    console = Console(highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    bodies = [
        # llama.cpp would answer the second run's prompts from the cache of the first's.
        (kind, {**body, "cache_prompt": False})
        for kind, body in bundled_bodies(max_tokens=max_tokens)
    ]
    with tempfile.TemporaryDirectory(prefix="lengthwise-demo-") as folder:
        settings = StackSettings(data_dir=Path(folder), slots=slots, port=ports.find_free())
        report, runs = asyncio.run(_measure(settings, bodies, requests, seed, console))
    draw(report, runs, out / "chart.png")
    (out / "result.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")
    for piece in render(report):
        console.print()
        console.print(piece, markup=False)
    console.print(f"\nChart: {out / 'chart.png'}   Figures: {out / 'result.json'}", markup=False)
    if report.failed:
        raise CliError(f"{report.failed} requests failed; the figures leave them out")


async def _measure(
    settings: StackSettings, bodies: Bodies, count: int, seed: int, console: Console
) -> tuple[Report, list[PolicyRun]]:
    async with (
        Stack(settings, notify=lambda line: console.print(line, markup=False)) as stack,
        ServiceClient(stack.url) as service,
    ):
        queue = (await service.queue(stack.model)).settings
        console.print(
            f"{count} requests at once to {stack.model}, a real LLM on this machine, "
            f"{settings.slots} at a time: half short questions, half long tasks, in mixed order, "
            f"the same both times. sjf runs with its defaults: k = {queue.overtake_factor:g}, "
            f"wait factor {queue.overtake_wait_factor:g}."
        )
        target = LoadTarget(url=stack.url, model=stack.model)
        warm_up = mix(bodies, count=2 * settings.slots, seed=seed + 1)
        await drive(target, warm_up, on_done=lambda _: None)
        workload = mix(bodies, count=count, seed=seed)
        runs = await compared(service, target, workload, _POLICIES, quiet=False)
        engine = LoadTarget(
            url=stack.engine_url or "", model=stack.model, api_key=stack.engine_api_key
        )
        overhead = await measured_overhead(target, engine, bodies, _PAIRS, quiet=False)
        report = build(
            runs,
            model=stack.model,
            slots=settings.slots,
            seed=seed,
            arrivals=ArrivalProcess(),
            overhead=overhead,
        )
        return report, runs
