"""`lengthwise lab scale`: the cost of a simulated request, for growing numbers of requests."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from lengthwise_cli.commands.lab.options import AsJson
from lengthwise_cli.extras import extra
from lengthwise_cli.flags import whole_numbers
from lengthwise_cli.progress import spinner
from lengthwise_contract.queue_settings import QueueSettings

#: Lengthwise's order by k alone.
_POLICY = f"due-{QueueSettings().overtake_factor:g}"


def scale(
    requests: Annotated[
        str, typer.Option(help="Numbers of requests, with commas.")
    ] = "100000,1000000,10000000",
    policy: Annotated[str, typer.Option(help="One of the lab's policies.")] = _POLICY,
    load: Annotated[float, typer.Option(min=0.01, help="Arrivals over the capacity.")] = 0.9,
    as_json: AsJson = False,
) -> None:
    """Measure the time and memory of simulating, for growing numbers of requests."""
    with extra("lab"):
        from lengthwise_lab.simulator.policies import policy_named
        from lengthwise_lab.simulator.scale import measure_scale
    policy_named(policy)
    counts = whole_numbers("--requests", requests)
    rows = []
    with spinner(quiet=as_json, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        for count in counts:
            progress.update(task, description=f"{count:,} requests")
            rows.append(measure_scale(count, policy, load))
    if as_json:
        typer.echo(json.dumps({"rows": rows}, indent=2))
        return
    heads = ("requests", "seconds", "us_per_request", "pricing_s", "running_s", "peak_mib")
    lines = ["| " + " | ".join(heads) + " |", "|" + " ---: |" * len(heads)]
    lines += ["| " + " | ".join(f"{row[head]:,}" for head in heads) + " |" for row in rows]
    Console().print(Markdown("\n".join(lines)))
