"""`lengthwise lab fit`: fit the simulator's engine to a measured run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lengthwise_cli.commands.lab.options import Samples, SjfOrder
from lengthwise_cli.extras import extra
from lengthwise_lab.errors import BadChoice


def fit(
    samples: Samples,
    slots: Annotated[int, typer.Option(min=1, help="max_num_seqs of the engine.")],
    out: Annotated[Path, typer.Option(help="Where the engine is written, JSON.")],
    token_budget: Annotated[int, typer.Option(min=1, help="Its max_num_batched_tokens.")] = 2048,
    arms: Annotated[str, typer.Option(help="The runs to fit to, with commas.")] = "fcfs",
    sjf: SjfOrder = "",
) -> None:
    """Fit the times of a step, a sequence and a token to measured completion times."""
    with extra("lab"):
        from lengthwise_lab.simulator import engine_fit
        from lengthwise_lab.simulator.policies import DEFAULT_POLICY
    wanted = {arm.strip() for arm in arms.split(",")}
    runs = [run for path in samples for run in engine_fit.read_samples(path) if run.arm in wanted]
    if not runs:
        raise BadChoice(f"no run of {arms} in {', '.join(map(str, samples))}")
    engine = engine_fit.fit(runs, slots=slots, token_budget=token_budget, sjf=sjf or DEFAULT_POLICY)
    out.write_text(engine.model_dump_json(indent=2) + "\n", encoding="utf-8")
    Console().print(
        f"A step takes {engine.step_ms:.3g} ms, {engine.decode_ms:.3g} ms more for each sequence, "
        f"{engine.prefill_ms:.3g} ms for each prompt token, {engine.context_ms:.3g} ms for each "
        f"token of context. Written to {out}."
    )
