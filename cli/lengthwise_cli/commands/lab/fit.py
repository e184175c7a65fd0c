"""`lengthwise lab fit` and `lengthwise lab check`: the simulator's engine, from a measured run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lengthwise_lab.errors import BadChoice

Samples = Annotated[
    list[Path],
    typer.Option("--samples", help="A samples.jsonl of `bench serve --out`; may be given again."),
]
Order = Annotated[
    str,
    typer.Option(
        "--sjf",
        help="The order of the sjf runs: due-K-wait-C with the queue's overtake_factor and "
        "overtake_wait_factor, or due-K. Default: that of a queue nobody configured.",
    ),
]


def fit(
    samples: Samples,
    slots: Annotated[int, typer.Option(min=1, help="max_num_seqs of the engine.")],
    out: Annotated[Path, typer.Option(help="Where the engine is written, JSON.")],
    token_budget: Annotated[int, typer.Option(min=1, help="Its max_num_batched_tokens.")] = 2048,
    arms: Annotated[str, typer.Option(help="Which runs to learn from, with commas.")] = "fcfs",
    sjf: Order = "",
) -> None:
    """Find what a step, a sequence and a token cost a real engine, from when its answers came."""
    from lengthwise_lab.simulator import engine_fit

    wanted = {arm.strip() for arm in arms.split(",")}
    runs = [run for path in samples for run in engine_fit.read_samples(path) if run.arm in wanted]
    if not runs:
        raise BadChoice(f"there is no run of {arms} in {', '.join(map(str, samples))}")
    engine = engine_fit.fit(
        runs, slots=slots, token_budget=token_budget, sjf=sjf or engine_fit.OURS
    )
    out.write_text(engine.model_dump_json(indent=2) + "\n", encoding="utf-8")
    Console().print(
        f"A step takes {engine.step_ms:.3g} ms, {engine.decode_ms:.3g} ms more for each sequence, "
        f"{engine.prefill_ms:.3g} ms for each prompt token, {engine.context_ms:.3g} ms for each "
        f"token of context. Written to {out}."
    )


def check(
    samples: Samples,
    engine: Annotated[Path, typer.Option(help="What `lengthwise lab fit` wrote.")],
    sjf: Order = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Set the simulator's completion times beside measured ones that it was not fitted on."""
    from lengthwise_lab.simulator import engine_fit

    model = engine_fit.read_engine(engine)
    runs = [run for path in samples for run in engine_fit.read_samples(path)]
    rows = engine_fit.errors(runs, model, sjf=sjf or engine_fit.OURS)
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
