"""`lengthwise lab table`: every headline number of the four research systems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from lengthwise_cli.commands.lab.options import AsJson, Data
from lengthwise_cli.extras import extra
from lengthwise_cli.progress import spinner


def table(
    data: Data = None,
    only: Annotated[str, typer.Option(help="Parts of the table, with commas. Default: all.")] = "",
    as_json: AsJson = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the table here as well.")] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write the rows here, without the runs behind them.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the table here.")] = None,
) -> None:
    """Reproduce the published numbers of four research systems, and compare Lengthwise."""
    with extra("lab"):
        from lengthwise_lab.reproductions.table.markdown import as_markdown
        from lengthwise_lab.reproductions.table.sources import collect
        from lengthwise_lab.reproductions.table.spreadsheet import as_csv
    names = [name for name in only.split(",") if name]
    with spinner(quiet=as_json, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        with extra("lab"):
            result = collect(
                data, names, started=lambda name: progress.update(task, description=name)
            )
    if png is not None:
        with extra("lab"):
            from lengthwise_lab.reproductions.table.chart import draw
        draw(result, png)
    text = as_markdown(result)
    if markdown is not None:
        markdown.write_text(text, encoding="utf-8")
    if csv is not None:
        csv.write_text(as_csv(result), encoding="utf-8")
    console = Console()
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    elif console.is_terminal:
        # The runs behind the numbers have fourteen columns, more than a terminal is wide.
        console.print(Markdown(as_markdown(result, runs_too=False)))
        console.print("The requests behind these numbers: --markdown FILE, --png FILE, --json.")
    else:
        typer.echo(text, nl=False)
