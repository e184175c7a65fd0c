"""`lengthwise train` and `lengthwise export`: a predictor of your own, learned in any known way."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from lengthwise_cli.errors import BadUsage
from lengthwise_cli.extras import extra, one_of


def train(
    data: Annotated[
        Path | None, typer.Option(help="JSONL (.gz) of rows, or a folder of such files; needed.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; a killed one is gone on with; needed.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="What to learn; `list` prints them.")] = None,
    all_tasks: Annotated[
        bool, typer.Option("--all-tasks", help="Every task on the same rows, and their table.")
    ] = False,
    backbone: Annotated[
        str, typer.Option(help="tiny, minilm, hidden, or a Hugging Face folder or hub id.")
    ] = "tiny",
    layers: Annotated[int | None, typer.Option(min=1, help="Layers of it to keep.")] = None,
    window: Annotated[int, typer.Option(min=8, help="Tokens read; of more, both ends.")] = 128,
    pooling: Annotated[str, typer.Option(help="auto, mean, first or last.")] = "auto",
    tune_epochs: Annotated[
        int | None,
        typer.Option(min=0, help="First epochs in which a pretrained backbone learns too."),
    ] = None,
    hidden: Annotated[
        Path | None, typer.Option(help="NPZ of the served LLM's vectors, for `hidden`.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the rows.")] = 12,
    batch: Annotated[int, typer.Option(min=2, help="Rows in a step; the list of ListMLE.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Its peak, of what starts anew.")] = 2e-3,
    encoder_rate: Annotated[float, typer.Option(help="Its peak, of a pretrained backbone.")] = 5e-5,
    sample: Annotated[int | None, typer.Option(min=20, help="Rows to learn from.")] = None,
    test_rows: Annotated[int, typer.Option(min=1, help="Test rows at most.")] = 2000,
    rounds: Annotated[str, typer.Option(help="multi: whole dialogues; single: no later round.")] = (
        "multi"
    ),
    llm: Annotated[
        list[str] | None, typer.Option(help="LLM to learn; again for more; all without it.")
    ] = None,
    cap_tokens: Annotated[
        int | None, typer.Option(min=1, help="Answers this long were cut there.")
    ] = None,
    classes: Annotated[int, typer.Option(min=2, help="Of classes-equal-width.")] = 10,
    label_max_tokens: Annotated[
        int, typer.Option(min=16, help="Longest label of equal-width classes, bins, scalars.")
    ] = 8192,
    bucket_tokens: Annotated[
        int, typer.Option(min=1, help="Lengths so close tie in ListMLE.")
    ] = 10,
    scalar_quantile: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Of scalar-quantile.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="auto (CUDA if it is there), cpu or cuda.")] = "auto",
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget an earlier run there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Train a length predictor on rows of prompts and lengths, measure it and export it.

    The folder OUT/fp32 can be served at once: LENGTHWISE_PREDICTOR_MODEL_DIR=OUT/fp32.
    """
    with extra("train"):
        from lengthwise_training.backbones.devices import DEVICES, torch_device
        from lengthwise_training.backbones.encoders import BackboneConfig
        from lengthwise_training.data.rows import BadLines
        from lengthwise_training.fitting import runs as task_runs
        from lengthwise_training.fitting.config import FitConfig
        from lengthwise_training.objectives.tasks import Task, TaskConfig

    names = [str(t) for t in Task]
    if task == "list":
        typer.echo("\n".join(names))
        return
    if all_tasks == (task is not None):
        raise BadUsage("give either --task or --all-tasks; `--task list` prints the tasks")
    if task is not None and task not in names:
        raise BadUsage(f"there is no task {task!r}; the tasks are {', '.join(names)}")
    if data is None or out is None:
        raise BadUsage("give the rows to learn from, --data, and a folder for the run, --out")
    one_of("--pooling", pooling, ("auto", "mean", "first", "last"))
    one_of("--rounds", rounds, ("single", "multi"))
    one_of("--device", device, DEVICES)
    try:
        where = torch_device(device)  # type: ignore[arg-type]
    except ValueError as exc:
        raise BadUsage(str(exc)) from exc
    config = FitConfig(
        task=Task(task or names[0]),
        backbone=BackboneConfig(
            name=backbone,
            layers=layers,
            window=window,
            pooling=pooling,  # type: ignore[arg-type]
        ),
        numbers=TaskConfig(
            label_max_tokens=label_max_tokens,
            classes=classes,
            bucket_tokens=bucket_tokens,
            scalar_quantile=scalar_quantile,
        ),
        epochs=epochs,
        tune_epochs=tune_epochs,
        batch=batch,
        learning_rate=learning_rate,
        encoder_rate=encoder_rate,
        rounds=rounds,  # type: ignore[arg-type]
        llms=None if llm is None else tuple(llm),
        cap_tokens=cap_tokens,
        sample=sample,
        test_rows=test_rows,
        seed=seed,
        threads=threads,
        device=where,
    )
    _log_to_stderr()
    try:
        with extra("train"):  # what only some backbones need is imported late
            if all_tasks:
                report = task_runs.train_all(config, data, out, hidden=hidden, restart=restart)
            else:
                report = task_runs.train(config, data, out, hidden=hidden, restart=restart)
                report.pop("card")
    except (FileNotFoundError, BadLines, ValueError) as exc:
        raise BadUsage(str(exc)) from exc
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    elif all_tasks:
        typer.echo(task_runs.table(report))
    else:
        typer.echo(_one(report, out, served=hidden is None))


def export(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run of `train`.")],
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    out: Annotated[Path | None, typer.Option(help="Where to; FOLDER/PRECISION without it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Export a trained predictor to ONNX, and say how far it is from PyTorch."""
    with extra("train"):
        from lengthwise_training.export.onnx import ParityError, Precision
        from lengthwise_training.fitting.runs import export_run

    if precision not in list(Precision):
        raise BadUsage(f"--precision is {precision!r}; it must be fp32, fp16 or int8")
    try:
        card = export_run(folder, Precision(precision), out)
    except (FileNotFoundError, ParityError) as exc:
        raise BadUsage(str(exc)) from exc
    if as_json:
        typer.echo(json.dumps(card, indent=2))
        return
    typer.echo(
        f"{out or folder / precision}: {card['precision']}, {card['bytes'] / 1e6:.1f} MB; differs "
        f"from PyTorch by {card['parity_max']:.2g} log tokens at most, {card['parity_mean']:.2g} "
        "on average"
    )


def _one(report: dict[str, float], out: Path, *, served: bool) -> str:
    use = (
        f"Serve it: LENGTHWISE_PREDICTOR_MODEL_DIR={out}/fp32"
        if served
        else f"lengthwise_training.backbones.hidden_states.HiddenModel('{out}/fp32') predicts with it; the "
        "predictor service has no vectors, and refuses it."
    )
    return (
        f"{report['task']}: tau-b {report['tau_b']:.3f}, pairs {report['pair_accuracy']:.3f}, MAE "
        f"{report['mae_tokens']:.1f} tokens on {report['n']} test rows; trained in "
        f"{report['train_seconds']:.0f} s\n{use}"
    )


def _log_to_stderr() -> None:
    """Progress goes where it is not mixed with --json."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    for noisy in ("httpx", "transformers", "onnxruntime"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
