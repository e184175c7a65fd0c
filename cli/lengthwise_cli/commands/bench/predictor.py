"""`lengthwise bench predictor`: the cost of a prediction on one core, beside BERT-base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lengthwise_cli.errors import BadUsage
from lengthwise_cli.extras import extra
from lengthwise_cli.flags import one_of, whole_numbers
from lengthwise_cli.progress import spinner


def predictor(
    model: Annotated[
        list[Path] | None, typer.Option(help="Folder of another model; repeat for more.")
    ] = None,
    tokens: Annotated[str, typer.Option(help="Prompt lengths, with commas.")] = "16,64,256,1024",
    batches: Annotated[str, typer.Option(help="Batch sizes, with commas.")] = "1,8,32",
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 3,
    calls: Annotated[int, typer.Option(min=1, help="Most calls of a cell per round.")] = 40,
    bert: Annotated[bool, typer.Option(help="Measure BERT-base too.")] = True,
    data: Annotated[
        Path | None, typer.Option(help="JSONL of measured lengths: adds rank quality.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto (CUDA if available).")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Measure the predictor on one core, beside BERT-base."""
    with extra("predictor"):
        from lengthwise_predictor.errors import ModelUnusable
        from lengthwise_predictor.settings import BUNDLED
        from lengthwise_training.compare.predictor_bench import bench
    one_of("--device", device, ("auto", "cpu", "cuda"))
    models = [BUNDLED, *(model or [])]
    quality = None
    try:
        with spinner(quiet=as_json) as progress:
            task = progress.add_task("starting", total=None)
            found = bench(
                models,
                tokens=whole_numbers("--tokens", tokens),
                batches=whole_numbers("--batches", batches),
                rounds=rounds,
                calls=calls,
                bert=bert,
                device=device,  # type: ignore[arg-type]
                on_step=lambda step: progress.update(task, description=step),
            )
        if data is not None:
            quality = _quality(data, models)
            found["quality"] = quality
    except (ModelUnusable, ValueError) as exc:
        raise BadUsage(str(exc)) from exc
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        _print(found)


def _quality(data: Path, models: list[Path]) -> list[dict[str, Any]]:
    with extra("train"):
        from lengthwise_training.compare.comparison import compare
        from lengthwise_training.data.rows import BadLines, LengthTable, read
    try:
        table = LengthTable(read(data).rows)
    except BadLines as exc:
        raise BadUsage(str(exc)) from exc
    rows = compare(table, None, models, adapt=False).as_json()["rows"]
    return [r for r in rows if r["llm"] == r["source"] == "all"]


def _print(found: dict[str, Any]) -> None:
    console = Console(highlight=False)
    table = Table(title="One core, one thread; medians of rounds", title_justify="left")
    for heading in ("predictor", "tokens", "batch", "p50 ms", "p99 ms", "prompts/s"):
        table.add_column(heading, justify="left" if heading == "predictor" else "right")
    for r in found["rows"]:
        table.add_row(
            r["predictor"],
            str(r["tokens"]),
            str(r["batch"]),
            f"{r['p50_ms']:.2f}",
            f"{r['p99_ms']:.2f}",
            f"{r['per_s']:,.0f}",
        )
    console.print(table)
    for model, ratios in found["ratios"].items():
        for other, times in ratios.items():
            console.print(
                f"{model} is {times:.1f} times as fast as {other} (256 tokens, batch 1)",
                markup=False,
            )
    for row in found.get("quality", []):
        tau = "" if row["tau_b"] is None else f"{row['tau_b']:.3f}"
        console.print(f"tau-b of {row['predictor']}: {tau} ({row['n']:,} rows)", markup=False)
    for note in found["setting"]["notes"]:
        console.print(f"Note: {note}", soft_wrap=True, markup=False)  # [train] is no style
