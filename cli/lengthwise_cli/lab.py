"""`lengthwise lab`: where a schedule is proved, and every headline number of the seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lengthwise_cli.errors import CliError
from lengthwise_lab.table import as_markdown, collect

app = typer.Typer(
    help="Prove a schedule: simulate it, and set it beside others.", no_args_is_help=True
)

Data = Annotated[
    Path | None,
    typer.Option(help="Folder of recorded lengths, traces and predictions. Default: synthetic."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command("table")
def table(
    data: Data = None,
    only: Annotated[str, typer.Option(help="Parts of the table, with commas. Default: all.")] = "",
    as_json: AsJson = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the table here as well.")] = None,
) -> None:
    """Every headline number of the seeds: theirs, reproduced, corrected, and ours."""
    names = [name for name in only.split(",") if name]
    with _progress(quiet=as_json) as progress:
        task = progress.add_task("starting", total=None)
        try:
            result = collect(
                data, names, started=lambda name: progress.update(task, description=name)
            )
        except ModuleNotFoundError as exc:
            raise _missing(exc) from exc
    text = as_markdown(result)
    if markdown is not None:
        markdown.write_text(text, encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        Console().print(Markdown(text))


def _progress(*, quiet: bool) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=quiet,
        transient=True,
    )


def _missing(exc: ModuleNotFoundError) -> CliError:
    if (exc.name or "").startswith("lengthwise"):
        raise exc  # a mistake of ours, not a missing extra
    return CliError(f"the lab needs {exc.name}: pip install 'lengthwise[lab]'")
