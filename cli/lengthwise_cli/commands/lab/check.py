"""`lengthwise lab check`: compare the simulator with a measured run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lengthwise_cli.commands.lab.options import AsJson, Samples, SjfOrder
from lengthwise_cli.extras import extra


def check(
    samples: Samples,
    engine: Annotated[Path, typer.Option(help="The engine that `lengthwise lab fit` wrote.")],
    sjf: SjfOrder = "",
    as_json: AsJson = False,
) -> None:
    """Compare simulated completion times with measured ones that were not fitted to."""
    with extra("lab"):
        from lengthwise_lab.simulator import engine_fit
        from lengthwise_lab.simulator.policies import DEFAULT_POLICY
    model = engine_fit.read_engine(engine)
    runs = [run for path in samples for run in engine_fit.read_samples(path)]
    rows = engine_fit.errors(runs, model, sjf=sjf or DEFAULT_POLICY)
    if as_json:
        found = [{**asdict(row), "relative_error": row.relative} for row in rows]
        typer.echo(json.dumps({"rows": found}, indent=2))
        return
    table = Table(title="Completion time, s", title_justify="left", title_style="bold")
    for head in ("step", "policy", "figure"):
        table.add_column(head)
    for head in ("measured", "simulated", "error"):
        table.add_column(head, justify="right")
    for row in rows:
        times = (f"{row.measured_s:.2f}", f"{row.simulated_s:.2f}", f"{row.relative:+.1%}")
        table.add_row(str(row.step), row.arm, row.figure, *times)
    Console().print(table)
