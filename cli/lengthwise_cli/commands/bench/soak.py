"""`lengthwise bench soak`: load of every kind, and a check of what Redis keeps afterwards."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer
from rich.console import Console

from lengthwise_cli.errors import CliError
from lengthwise_lab.soak.run import soak as run


def soak(
    minutes: Annotated[float, typer.Option(min=0.05, help="Minutes of load.")] = 10,
    rate: Annotated[float, typer.Option(min=0.1, help="Jobs per second.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of each job's outcome.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Load a Valkey and check what stays behind.

    Exits with status 1 when a key has neither a time to live nor a bound.
    """
    report = asyncio.run(run(seconds=minutes * 60, rate=rate, seed=seed))
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
    else:
        console = Console(highlight=False)
        for name, value in report.as_json().items():
            console.print(f"{name}: {value}")
    if not report.ok:
        raise CliError("a key stays in Redis without a time to live or a bound")
