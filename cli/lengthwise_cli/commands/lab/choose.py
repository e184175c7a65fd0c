"""`lengthwise lab choose`: compare candidates for k and the wait factor."""

from __future__ import annotations

import json

import typer
from rich.console import Console
from rich.markdown import Markdown

from lengthwise_cli.commands.lab.options import AsJson
from lengthwise_cli.extras import extra
from lengthwise_cli.progress import spinner


def choose(as_json: AsJson = False) -> None:
    """Compare candidates for k: their share of the oracle's gain, and their p99."""
    with extra("lab"):
        from lengthwise_lab.simulator.tuning import as_markdown, compare_candidates
    with spinner(quiet=as_json, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        rows = list(compare_candidates(lambda case: progress.update(task, description=case)))
    if as_json:
        typer.echo(json.dumps({"rows": rows}, indent=2))
    else:
        Console().print(Markdown(as_markdown(rows)))
