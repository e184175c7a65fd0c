"""`lengthwise bench learn`: what learning from finished jobs is worth on a file of lengths."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from lengthwise_cli.errors import CliError
from lengthwise_cli.extras import extra

if TYPE_CHECKING:
    from lengthwise_lab.learning.report import StreamResult


class By(StrEnum):
    """What makes a stream."""

    SOURCE = "source"
    LLM = "llm"


def learn(
    data: Annotated[
        Path, typer.Option(help="Lengths, .jsonl or .jsonl.gz, as `lengthwise collect` writes.")
    ],
    by: Annotated[
        By, typer.Option(help="A stream is one LLM and source, or one LLM of the file.")
    ] = By.SOURCE,
    seeds: Annotated[int, typer.Option(min=1, help="Orders of each stream; means of them.")] = 3,
    limit: Annotated[int, typer.Option(min=150, help="Most jobs of a stream.")] = 11_000,
    application: Annotated[
        str, typer.Option(help="Field of the rows that names the application.")
    ] = "application",
    cap: Annotated[int | None, typer.Option(min=1, help="Cut answers at so many tokens.")] = None,
    change_to: Annotated[
        str | None, typer.Option(help="In the middle the answers become those of this LLM.")
    ] = None,
    says_so: Annotated[
        bool,
        typer.Option(help="Name the new LLM to the queue at that change, like a new revision."),
    ] = False,
    unnamed: Annotated[
        bool, typer.Option(help="Ask the predictor about an LLM that it does not know.")
    ] = False,
    order: Annotated[
        bool, typer.Option(help="Simulate what the order gains at loads 0.95 and 1.2.")
    ] = True,
    model_dir: Annotated[
        Path | None, typer.Option(help="Folder of the model. Default: the bundled one.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a chart, PNG: tau-b over jobs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Replay lengths as traffic and measure what is learned."""
    with extra("lab"):
        from lengthwise_lab.learning import report, streams
        from lengthwise_lab.learning.predictor import CachedPredictor, NoView
        from lengthwise_lab.learning.replay import replay
        from lengthwise_predictor.settings import BUNDLED
        from lengthwise_training.data.rows import BadLines, read
    try:
        found = read(data, application_field=application)
        predictor = CachedPredictor(model_dir or BUNDLED, unnamed=unnamed)
    except (BadLines, NoView) as exc:
        raise CliError(str(exc)) from exc
    results = []
    for stream in streams.streams_of(
        found.rows,
        by_source=by is By.SOURCE,
        source=data.name,
        change_to=change_to,
        says_so=says_so,
    ):
        runs = [
            replay(stream.jobs(seed=seed, limit=limit, cap=cap), predictor, order=order)
            for seed in range(1, seeds + 1)
        ]
        results.append(report.StreamResult.of(stream, runs))
        if not as_json:
            _print(results[-1])
    if plot is not None:
        from lengthwise_lab.learning.chart import draw

        draw(results, plot)
    if as_json:
        typer.echo(json.dumps({"streams": [r.as_json() for r in results]}, indent=2))


_COLUMNS = (
    ("jobs", "jobs", 0),
    ("static", "tau_static", 3),
    ("learned", "tau_learned", 3),
    ("served", "tau_served", 3),
    ("pairs\nstatic", "pairs_static", 3),
    ("pairs\nserved", "pairs_served", 3),
    ("of oracle\n0.95", "oracle_share_095", 2),
    ("of oracle\n1.2", "oracle_share_12", 2),
    ("p99\n1.2", "p99_ratio_12", 2),
)


def _print(result: StreamResult) -> None:
    whole = result.as_json()
    title = f"{whole['llm']}, {whole['source']}: {whole['predict_us']:.0f} us a prediction, "
    table = Table(title=title + f"{whole['fit_ms']:.0f} ms a fit", box=box.SIMPLE)
    for head, _, _ in _COLUMNS:
        table.add_column(head, justify="right")
    rows: Sequence[dict[str, Any]] = whole["after"]
    for row in rows:
        table.add_row(*(_cell(row.get(key), digits) for _, key, digits in _COLUMNS))
    Console(highlight=False).print(table)


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
