"""`lengthwise lab`: where a schedule is proved, and every headline number of the seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lengthwise_cli.commands.lab import fit as lab_fit
from lengthwise_cli.errors import BadUsage
from lengthwise_cli.extras import extra
from lengthwise_lab.reproductions.table import markdown as table_markdown
from lengthwise_lab.reproductions.table import sources as seeds_table
from lengthwise_lab.reproductions.table.spreadsheet import as_csv

if TYPE_CHECKING:
    from lengthwise_lab.reproductions.batch_question import BatchQuestion

app = typer.Typer(
    help="Prove a schedule: simulate it, and set it beside others.", no_args_is_help=True
)

app.command("fit")(lab_fit.fit)
app.command("check")(lab_fit.check)

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
    csv: Annotated[
        Path | None, typer.Option(help="Write the rows here, without the runs behind them.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the table here.")] = None,
) -> None:
    """Every headline number of the seeds: theirs, reproduced, corrected, and ours."""
    names = [name for name in only.split(",") if name]
    with _progress(quiet=as_json) as progress:
        task = progress.add_task("starting", total=None)
        with extra("lab"):
            result = seeds_table.collect(
                data, names, started=lambda name: progress.update(task, description=name)
            )
    if png is not None:
        with extra("lab"):
            from lengthwise_lab.reproductions.table.chart import draw
        draw(result, png)
    text = table_markdown.as_markdown(result)
    if markdown is not None:
        markdown.write_text(text, encoding="utf-8")
    if csv is not None:
        csv.write_text(as_csv(result), encoding="utf-8")
    console = Console()
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    elif console.is_terminal:
        # Fourteen columns of the runs behind the numbers are more than a terminal is wide.
        console.print(Markdown(table_markdown.as_markdown(result, runs_too=False)))
        console.print("The requests behind these numbers: --markdown FILE, --png FILE, --json.")
    else:
        typer.echo(text, nl=False)


@app.command("run")
def run(
    config: Annotated[Path, typer.Argument(help="A question, TOML or JSON; see lab/configs/.")],
    data: Data = None,
    as_json: AsJson = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the answer here as well.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the answer here.")] = None,
) -> None:
    """Serve one workload under several policies, and set them beside each other."""
    with extra("lab"):
        from lengthwise_lab.reproductions.batch_question import BatchQuestion
        from lengthwise_lab.simulator.comparison import as_markdown, compare_policies
        from lengthwise_lab.simulator.question import read_question, read_values, validated
    values = read_values(config)
    if isinstance(values, dict) and values.get("kind") == "batches":
        _run_batches(validated(config, values, BatchQuestion), data, as_json, markdown, png)
        return
    question = read_question(config)
    total = question.requests * len(question.policies) * len(question.seeds)
    bar = Progress(console=Console(stderr=True), disable=as_json, transient=True)
    with bar:
        task = bar.add_task("compiling", total=total)
        served = 0

        def moved(name: str, came: int) -> None:
            nonlocal served
            served += came - (came - 1) // 100_000 * 100_000
            bar.update(task, description=name, completed=served)

        result = compare_policies(question, data, progress=moved)
    _hand_out(result, as_markdown(result), as_json, markdown, png)


def _run_batches(
    question: BatchQuestion,
    data: Path | None,
    as_json: bool,
    markdown: Path | None,
    png: Path | None,
) -> None:
    """Static batches, in the ways of the question."""
    from lengthwise_lab.reproductions import batch_question

    with _progress(quiet=as_json) as progress:
        task = progress.add_task("starting", total=None)
        result = batch_question.compare_batchings(
            question, data, progress=lambda way: progress.update(task, description=way)
        )
    _hand_out(result, batch_question.as_markdown(result), as_json, markdown, png)


def _hand_out(
    result: dict[str, Any], text: str, as_json: bool, markdown: Path | None, png: Path | None
) -> None:
    """Print what was found, and write the files that were asked for."""
    from lengthwise_lab.simulator.comparison import draw

    if markdown is not None:
        markdown.write_text(text, encoding="utf-8")
    if png is not None:
        draw(result, png)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        _show(text)


@app.command("scale")
def scale(
    requests: Annotated[
        str, typer.Option(help="How many, with commas.")
    ] = "100000,1000000,10000000",
    policy: Annotated[str, typer.Option(help="One of the lab's policies.")] = "due-3",
    load: Annotated[float, typer.Option(min=0.01, help="Arrivals over what is possible.")] = 0.9,
    as_json: AsJson = False,
) -> None:
    """What simulating costs: time and memory for ever more requests."""
    with extra("lab"):
        from lengthwise_lab.simulator.policies import policy_named
        from lengthwise_lab.simulator.scale import measure_scale
    policy_named(policy)
    try:
        counts = [int(part) for part in requests.split(",")]
    except ValueError as exc:
        raise BadUsage(f"--requests wants whole numbers with commas, got {requests!r}") from exc
    rows = []
    with _progress(quiet=as_json) as progress:
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


@app.command("choose")
def choose(as_json: AsJson = False) -> None:
    """Which k: what of the oracle's gain each has on lines of many kinds, and the tail it costs."""
    with extra("lab"):
        from lengthwise_lab.simulator.tuning import as_markdown, compare_candidates
    with _progress(quiet=as_json) as progress:
        task = progress.add_task("starting", total=None)
        rows = list(compare_candidates(lambda line: progress.update(task, description=line)))
    if as_json:
        typer.echo(json.dumps({"rows": rows}, indent=2))
    else:
        Console().print(Markdown(as_markdown(rows)))


def _show(markdown: str) -> None:
    """To a person as a table, to a file or a pipe as it is."""
    console = Console()
    if console.is_terminal:
        console.print(Markdown(markdown))
    else:
        typer.echo(markdown, nl=False)


def _progress(*, quiet: bool) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=quiet,
        transient=True,
    )
