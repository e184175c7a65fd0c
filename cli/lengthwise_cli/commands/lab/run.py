"""`lengthwise lab run`: compare policies on one workload, or ways to make static batches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from lengthwise_cli.commands.lab.options import AsJson, Data
from lengthwise_cli.commands.lab.output import deliver
from lengthwise_cli.extras import extra
from lengthwise_cli.progress import spinner

if TYPE_CHECKING:
    from lengthwise_lab.reproductions.batch_question import BatchQuestion
    from lengthwise_lab.simulator.question import Question


def run(
    config: Annotated[Path, typer.Argument(help="A question, TOML or JSON; see lab/configs/.")],
    data: Data = None,
    as_json: AsJson = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the result here as well.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the result here.")] = None,
) -> None:
    """Simulate one workload under several policies, and compare them."""
    with extra("lab"):
        from lengthwise_lab.reproductions import batch_question
        from lengthwise_lab.simulator import comparison
        from lengthwise_lab.simulator.question import read_question, read_values, validated
    values = read_values(config)
    if isinstance(values, dict) and values.get("kind") == "batches":
        batches = validated(config, values, batch_question.BatchQuestion)
        result = _compare_batchings(batches, data, quiet=as_json)
        text = batch_question.as_markdown(result)
    else:
        result = _compare_policies(read_question(config), data, quiet=as_json)
        text = comparison.as_markdown(result)
    deliver(result, text, comparison.draw, as_json=as_json, markdown=markdown, png=png)


def _compare_policies(question: Question, data: Path | None, *, quiet: bool) -> dict[str, Any]:
    from lengthwise_lab.simulator.comparison import compare_policies
    from lengthwise_lab.simulator.workloads.workload import PIECE

    total = question.requests * len(question.policies) * len(question.seeds)
    with Progress(console=Console(stderr=True), disable=quiet, transient=True) as bar:
        task = bar.add_task("compiling", total=total)
        served = 0

        def moved(name: str, arrived: int) -> None:
            nonlocal served
            served += arrived - (arrived - 1) // PIECE * PIECE
            bar.update(task, description=name, completed=served)

        return compare_policies(question, data, progress=moved)


def _compare_batchings(
    question: BatchQuestion, data: Path | None, *, quiet: bool
) -> dict[str, Any]:
    from lengthwise_lab.reproductions.batch_question import compare_batchings

    with spinner(quiet=quiet, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        return compare_batchings(
            question, data, progress=lambda way: progress.update(task, description=way)
        )
