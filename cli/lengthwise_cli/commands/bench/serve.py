"""`lengthwise bench serve`: run the same workload under each policy on a running service."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console

from lengthwise_cli.commands.bench.measured import bars, measured_overhead
from lengthwise_cli.commands.submit import ApiKey, Model, Url
from lengthwise_cli.engine_models import engine_models
from lengthwise_cli.errors import BadUsage, CliError
from lengthwise_lab.loadtest.arrivals import ArrivalKind, ArrivalProcess, read_trace
from lengthwise_lab.loadtest.client import ServiceClient, choose_model
from lengthwise_lab.loadtest.compare import Arm, until_idle
from lengthwise_lab.loadtest.driver import LoadTarget
from lengthwise_lab.loadtest.sweep import Sweep, SweepPlan, at_loads, measure_capacity, sweep
from lengthwise_lab.loadtest.terminal_tables import render, render_sweep
from lengthwise_lab.loadtest.workload import Bodies, bundled_bodies, read_bodies


def serve(
    url: Url = "http://127.0.0.1:8080",
    api_key: ApiKey = None,
    model: Model = None,
    engine_url: Annotated[
        str | None,
        typer.Option(help="URL of the engine: measures what the queue adds to the first token."),
    ] = None,
    engine_api_key: Annotated[str | None, typer.Option(help="API key of the engine.")] = None,
    policies: Annotated[
        str,
        typer.Option(
            help="Policies, with commas: fcfs, sjf, sjf-k (no wait factor), shadow, oracle (knows "
            "the lengths; needs fcfs)."
        ),
    ] = "fcfs,sjf",
    requests: Annotated[int, typer.Option(min=1, help="Requests per run.")] = 72,
    arrivals: Annotated[
        ArrivalKind | None,
        typer.Option(help="Arrival process. Default: burst; poisson with --rate or --loads."),
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Mean arrivals per second.")] = None,
    loads: Annotated[
        str | None,
        typer.Option(
            help="Offered loads to sweep instead of --rate, with commas; 1 is the engine's "
            "capacity, which is measured first."
        ),
    ] = None,
    burst: Annotated[bool, typer.Option("--burst", help="Same as --arrivals burst.")] = False,
    variation: Annotated[
        float, typer.Option(min=0.01, help="gamma: coefficient of variation of the gaps.")
    ] = 4.0,
    on_s: Annotated[float, typer.Option(min=0.01, help="onoff: seconds on.")] = 5.0,
    off_s: Annotated[float, typer.Option(min=0.0, help="onoff: seconds off.")] = 10.0,
    trace: Annotated[
        Path | None, typer.Option(help="trace: CSV or .csv.gz with a column `arrival_s`.")
    ] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Slots of the engine. Default: the workers' sum.")
    ] = None,
    seed: Annotated[int, typer.Option(help="First seed of the order and the arrivals.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from --seed on.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Cap on every answer, tokens.")] = 400,
    data: Annotated[
        Path | None, typer.Option(help="JSONL with `prompt` or `messages`. Default: bundled.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of requests for the overhead.")] = 30,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for result.json, chart.png and samples.jsonl."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Compare policies on a running service."""
    process = _arrivals(arrivals, rate, burst, loads, variation, on_s, off_s, trace)
    chosen, wanted = _policies(policies), _loads(loads)
    bodies: Bodies = (
        bundled_bodies(max_tokens=max_tokens)
        if data is None
        else read_bodies(data, max_tokens=max_tokens)
    )

    async def measure() -> Sweep:
        async with ServiceClient(url, api_key=api_key) as service:
            name = await service.only_model(model)
            target = LoadTarget(url=url, model=name, api_key=api_key)
            overhead = None
            if engine_url is not None:
                engine = await _engine(engine_url, engine_api_key, model)
                await until_idle(service, name)
                overhead = await measured_overhead(target, engine, bodies, pairs, quiet=as_json)
            view = await service.queue(name)
            engine_slots = slots or sum(w.slots for w in view.workers)
            if engine_slots < 1:
                raise CliError(f"no worker serves {name}; start one")
            capacity, steps = None, [process]
            if wanted:
                capacity = await measure_capacity(
                    service, target, bodies, slots=engine_slots, seed=seed
                )
                steps = at_loads(process, wanted, capacity)
            plan = SweepPlan(
                arrivals=steps,
                count=requests,
                seeds=range(seed, seed + seeds),
                policies=chosen,
            )
            with bars(plan.count, quiet=as_json) as (on_run, on_done):
                return await sweep(
                    service,
                    target,
                    bodies,
                    plan,
                    slots=engine_slots,
                    capacity_per_s=capacity,
                    overhead=overhead,
                    on_run=lambda arm, at, s: on_run(_title(arm, at, s, plan)),
                    on_done=on_done,
                )

    result = asyncio.run(measure())
    if out is not None:
        _keep(result, out)
    if as_json:
        typer.echo(json.dumps(result.as_json(), indent=2))
    else:
        only = result.steps[0].seeds if len(result.steps) == 1 else []
        pieces = render(only[0]) if len(only) == 1 else render_sweep(result)
        Console(highlight=False).print(*pieces, sep="\n\n")
    if result.failed:
        raise CliError("some requests failed; the figures leave them out")


def _arrivals(
    kind: ArrivalKind | None,
    rate: float | None,
    burst: bool,
    loads: str | None,
    variation: float,
    on_s: float,
    off_s: float,
    trace: Path | None,
) -> ArrivalProcess:
    """Build the arrival process from the flags; with --loads its rate is set later.

    Raises:
        BadUsage: The flags contradict one another, or something is missing.
    """
    if burst and (kind not in (None, ArrivalKind.BURST) or rate is not None or loads is not None):
        raise BadUsage("--burst sends everything at once: leave out --arrivals, --rate, --loads")
    if rate is not None and loads is not None:
        raise BadUsage("give either --rate or --loads")
    timed = rate is not None or loads is not None
    shape = kind or (ArrivalKind.POISSON if timed else ArrivalKind.BURST)
    if timed == (shape is ArrivalKind.BURST):
        raise BadUsage(
            "burst arrivals take no --rate and no --loads"
            if timed
            else f"{shape} arrivals need --rate, or --loads"
        )
    if (shape is ArrivalKind.TRACE) != (trace is not None):
        raise BadUsage("--arrivals trace and --trace FILE go together")
    return ArrivalProcess(
        kind=shape,
        rate_per_s=(rate or 1.0) if timed else None,
        variation=variation,
        on_s=on_s,
        off_s=off_s,
        trace_s=() if trace is None else read_trace(trace),
    )


def _loads(text: str | None) -> list[float]:
    try:
        loads = [float(part) for part in (text or "").split(",") if part.strip()]
    except ValueError:
        loads = [0.0]
    if any(not 0 < load < 100 for load in loads) or (text is not None and not loads):
        raise BadUsage(f"--loads takes numbers above 0, with commas; got {text!r}")
    return loads


def _title(arm: Arm, arrivals: ArrivalProcess, seed: int, plan: SweepPlan) -> str:
    """Title of a progress bar."""
    rate = arrivals.rate_per_s
    at = f", {rate:.2f}/s" if rate is not None and len(plan.arrivals) > 1 else ""
    return f"{arm}{at}" + (f", seed {seed}" if len(plan.seeds) > 1 else "")


def _keep(result: Sweep, folder: Path) -> None:
    """Write result.json, chart.png and samples.jsonl; each sample names its run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise BadUsage(f"--out {folder}: {exc}") from exc
    from lengthwise_lab.loadtest.chart import (  # matplotlib: half of what a start takes
        draw,
        draw_sweep,
    )

    (folder / "result.json").write_text(json.dumps(result.as_json(), indent=2) + "\n")
    first = result.steps[0]
    if len(result.steps) > 1:
        draw_sweep(result, folder / "chart.png")
    elif first.pooled is not None:
        draw(first.pooled, first.runs, folder / "chart.png")
    with (folder / "samples.jsonl").open("w") as file:
        for number, step in enumerate(result.steps):
            for run in step.runs:
                for sample in run.samples:
                    row = {"step": number, "arm": run.policy, **asdict(sample)}
                    file.write(json.dumps(row) + "\n")


def _policies(text: str) -> list[Arm]:
    known = get_args(Arm)
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) != len(names) or not set(names) <= set(known):
        raise BadUsage(f"--policies takes some of {', '.join(known)}, each once; got {text!r}")
    if "oracle" in names and "fcfs" not in names:
        raise BadUsage("--policies oracle needs fcfs as well: its run measures the lengths")
    return cast(list[Arm], names)


async def _engine(url: str, api_key: str | None, model: str | None) -> LoadTarget:
    """Find the engine's model: the queue's name if it serves that, otherwise its only model.

    Raises:
        BadUsage: It does not list its models.
    """
    served = list(await engine_models(url, api_key))
    name = model if model in served else choose_model(served, None, where=url)
    return LoadTarget(url=url, model=name, api_key=api_key)
