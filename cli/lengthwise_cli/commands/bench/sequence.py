"""`lengthwise bench sequence`: static batches of a real model, in arrival order and by length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lengthwise_lab.loadtest.workload import bundled_bodies, mix, read_bodies
from lengthwise_lab.static_batches import as_json as to_json
from lengthwise_lab.static_batches import load, measure


def sequence(
    model: Annotated[Path, typer.Option(help="Folder of a Hugging Face causal LM.")],
    requests: Annotated[int, typer.Option(min=2, help="Number of prompts.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Answers per static batch.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="Cap on every answer, tokens.")] = 256,
    quantile: Annotated[
        float,
        typer.Option(min=0.01, max=0.99, help="Length quantile for sequence batches."),
    ] = 0.7,
    data: Annotated[
        Path | None, typer.Option(help="JSONL with `prompt` or `messages`. Default: bundled.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the prompts' order and the noise.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: PyTorch's choice.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Measure sequence scheduling with a real model.

    Every method serves the same prompts with the same memory in one process; compare the ratios.
    """
    bodies = (
        bundled_bodies(max_tokens=max_tokens)
        if data is None
        else read_bodies(data, max_tokens=max_tokens)
    )
    chosen = [request.body for request in mix(bodies, count=requests, seed=seed)]
    err = Console(stderr=True, quiet=as_json)
    err.print(f"loading {model}")
    measured = measure(
        load(model, threads=threads),
        chosen,
        batch=batch,
        quantile=quantile,
        seed=seed,
        on_variant=lambda name: err.print(f"serving {requests} prompts: {name}"),
    )
    if as_json:
        settings = {"requests": requests, "batch": batch, "max_tokens": max_tokens, "seed": seed}
        typer.echo(json.dumps(to_json(measured, quantile=quantile, **settings), indent=2))
        return
    table = Table(
        "method",
        "answers/s",
        "to static",
        "by CPU time",
        "effective",
        "failures",
        "batches",
        "steps",
    )
    for one in measured:
        table.add_row(
            one.name,
            f"{one.answers_per_s:.2f}",
            f"{one.ratio:.2f}",
            f"{one.cpu_ratio:.2f}",
            f"{one.effective:.0%}",
            f"{one.failures:.0%}",
            str(one.batches),
            str(one.steps),
        )
    Console(highlight=False).print(table)
