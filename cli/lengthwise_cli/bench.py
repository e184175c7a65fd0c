"""`lengthwise bench serve`: the same workload under each policy, against a running service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lengthwise_cli.errors import BadUsage, CliError
from lengthwise_cli.submit import ApiKey, Model, Url
from lengthwise_contract.api import PolicyName
from lengthwise_lab.compare import Run, compare, until_idle
from lengthwise_lab.drive import Target
from lengthwise_lab.measure import Sample
from lengthwise_lab.overhead import WARM_UP_PAIRS, Overhead, measure_overhead
from lengthwise_lab.report import build
from lengthwise_lab.service import Service, choose_model
from lengthwise_lab.tables import render
from lengthwise_lab.workload import Request, bundled_bodies, mix, read_bodies

Bodies = Sequence[tuple[str, dict[str, Any]]]


def serve(
    url: Url = "http://127.0.0.1:8080",
    api_key: ApiKey = None,
    model: Model = None,
    engine_url: Annotated[
        str | None,
        typer.Option(help="The engine itself: measures what the path adds to the first token."),
    ] = None,
    engine_api_key: Annotated[str | None, typer.Option(help="For the engine.")] = None,
    policies: Annotated[str, typer.Option(help="Policies to compare, with commas.")] = "fcfs,sjf",
    requests: Annotated[int, typer.Option(min=1, help="How many requests a policy.")] = 72,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Mean arrivals a second, Poisson.")
    ] = None,
    burst: Annotated[bool, typer.Option("--burst", help="All at once; the default.")] = False,
    slots: Annotated[
        int | None, typer.Option(min=1, help="For the oracle. Default: what the workers have.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order and the arrivals.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Cap on every answer, tokens.")] = 400,
    data: Annotated[
        Path | None, typer.Option(help="JSONL with `prompt` or `messages`. Default: bundled.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs for the overhead.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Compare policies on a running service, which should have nothing else to do meanwhile."""
    if burst and rate is not None:
        raise BadUsage("give either --burst or --rate")
    chosen = _policies(policies)
    bodies: Bodies = (
        bundled_bodies(max_tokens=max_tokens)
        if data is None
        else read_bodies(data, max_tokens=max_tokens)
    )
    workload = mix(bodies, count=requests, seed=seed, rate_per_s=rate)

    async def measure() -> bool:
        async with Service(url, api_key=api_key) as service:
            name = await service.only_model(model)
            target = Target(url=url, model=name, api_key=api_key)
            overhead = None
            if engine_url is not None:
                engine = await _engine(engine_url, engine_api_key, model)
                await until_idle(service, name)
                overhead = await measured_overhead(target, engine, bodies, pairs, quiet=as_json)
            view = await service.queue(name)
            engine_slots = slots or sum(w.slots for w in view.workers)
            if engine_slots < 1:
                raise CliError(f"no worker serves {name}: nothing would be answered")
            runs = await compared(service, target, workload, chosen, quiet=as_json)
        report = build(
            runs,
            model=name,
            slots=engine_slots,
            seed=seed,
            rate_per_s=rate,
            overhead=overhead,
        )
        if as_json:
            typer.echo(json.dumps(report.as_json(), indent=2))
        else:
            Console(highlight=False).print(*render(report), sep="\n\n")
        return report.failed == 0

    if not asyncio.run(measure()):
        raise CliError("some requests failed; the figures leave them out")


async def compared(
    service: Service,
    target: Target,
    workload: Sequence[Request],
    policies: Sequence[PolicyName],
    *,
    quiet: bool,
) -> list[Run]:
    """Run the comparison with a progress bar for each policy."""
    with _progress(quiet) as progress:
        bars = {p: progress.add_task(p, total=len(workload), start=False) for p in policies}
        current = bars[policies[0]]

        def on_run(policy: PolicyName) -> None:
            nonlocal current
            current = bars[policy]
            progress.start_task(current)

        def on_done(_: Sample) -> None:
            progress.advance(current)

        return await compare(
            service, target, workload, policies=policies, on_run=on_run, on_done=on_done
        )


async def measured_overhead(
    path: Target, engine: Target, bodies: Bodies, pairs: int, *, quiet: bool
) -> Overhead:
    """Measure what the path adds, with a progress bar."""
    with _progress(quiet) as progress:
        bar = progress.add_task("first token, idle", total=WARM_UP_PAIRS + pairs)
        return await measure_overhead(
            path, engine, bodies, pairs=pairs, on_pair=lambda: progress.advance(bar)
        )


def _progress(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )


def _policies(text: str) -> list[PolicyName]:
    known = get_args(PolicyName)
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) != len(names) or not set(names) <= set(known):
        raise BadUsage(f"--policies wants some of {', '.join(known)}, each once; got {text!r}")
    return cast(list[PolicyName], names)


async def _engine(url: str, api_key: str | None, model: str | None) -> Target:
    """The engine, and the model to ask it for: the queue's name if it knows it, else its only one.

    Raises:
        BadUsage: It does not list its models.
    """
    target = Target(url=url, model="", api_key=api_key)
    try:
        async with target.client() as http:
            response = (await http.get("/v1/models")).raise_for_status()
            served = [str(m["id"]) for m in response.json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as exc:
        reason = exc if str(exc) else type(exc).__name__
        raise BadUsage(f"the engine at {url} does not list its models: {reason}") from exc
    name = model if model in served else choose_model(served, None, where=url)
    return Target(url=url, model=name, api_key=api_key)
