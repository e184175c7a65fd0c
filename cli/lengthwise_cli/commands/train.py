"""`lengthwise train` and `lengthwise export`: train your own predictor and export it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from lengthwise_cli.errors import BadUsage
from lengthwise_cli.extras import extra
from lengthwise_cli.flags import one_of


def train(
    data: Annotated[
        Path | None, typer.Option(help="JSONL (.gz) of rows, or a folder of them. Required.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; resumes a stopped run. Required.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="The task; `list` prints all.")] = None,
    all_tasks: Annotated[
        bool,
        typer.Option("--all-tasks", help="Train every task on the same rows."),
    ] = False,
    backbone: Annotated[
        str, typer.Option(help="tiny, minilm, hidden, or a Hugging Face folder or hub id.")
    ] = "tiny",
    layers: Annotated[int | None, typer.Option(min=1, help="Layers to keep.")] = None,
    window: Annotated[int, typer.Option(min=8, help="Tokens read; both ends of more.")] = 128,
    pooling: Annotated[str, typer.Option(help="auto, mean, first or last.")] = "auto",
    tune_epochs: Annotated[
        int | None,
        typer.Option(min=0, help="First epochs, which train a pretrained backbone too."),
    ] = None,
    hidden: Annotated[
        Path | None, typer.Option(help="NPZ of the LLM's hidden states, for `hidden`.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the rows.")] = 12,
    batch: Annotated[int, typer.Option(min=2, help="Rows per step; the list of ListMLE.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak rate of new layers.")] = 2e-3,
    encoder_rate: Annotated[float, typer.Option(help="Peak rate of a pretrained backbone.")] = 5e-5,
    sample: Annotated[int | None, typer.Option(min=20, help="Rows to train on.")] = None,
    test_rows: Annotated[int, typer.Option(min=1, help="Test rows at most.")] = 2000,
    rounds: Annotated[str, typer.Option(help="multi: whole dialogues; single: first rounds.")] = (
        "multi"
    ),
    llm: Annotated[
        list[str] | None, typer.Option(help="LLM to train on; repeat for more. Default: all.")
    ] = None,
    cap_tokens: Annotated[
        int | None, typer.Option(min=1, help="Answers of this length are censored.")
    ] = None,
    classes: Annotated[int, typer.Option(min=2, help="Classes of classes-equal-width.")] = 10,
    label_max_tokens: Annotated[
        int, typer.Option(min=16, help="Longest label of equal-width classes, bins and scalars.")
    ] = 8192,
    bucket_tokens: Annotated[
        int, typer.Option(min=1, help="Lengths this close tie in ListMLE, tokens.")
    ] = 10,
    scalar_quantile: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Quantile of scalar-quantile.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="Seed of all random choices.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="auto (CUDA if available), cpu or cuda.")] = "auto",
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard an earlier run in OUT.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Train, measure and export a length predictor.

    To serve the result, set LENGTHWISE_PREDICTOR_MODEL_DIR=OUT/fp32.
    """
    with extra("train"):
        from lengthwise_training.backbones.config import BackboneConfig
        from lengthwise_training.backbones.devices import DEVICES, torch_device
        from lengthwise_training.data.rows import BadLines
        from lengthwise_training.fitting.config import FitConfig
        from lengthwise_training.objectives.config import TaskConfig
        from lengthwise_training.objectives.tasks import Task
        from lengthwise_training.runs.all_tasks import tasks_table, train_all
        from lengthwise_training.runs.run import train_task

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
        with extra("train"):  # some backbones import more packages
            if all_tasks:
                report = train_all(config, data, out, hidden=hidden, restart=restart)
            else:
                report = train_task(config, data, out, hidden=hidden, restart=restart)
                report.pop("card")
    except (FileNotFoundError, BadLines, ValueError) as exc:
        raise BadUsage(str(exc)) from exc
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    elif all_tasks:
        typer.echo(tasks_table(report))
    else:
        typer.echo(_one(report, out, served=hidden is None))


def export(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run of `train`.")],
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    out: Annotated[Path | None, typer.Option(help="Default: FOLDER/PRECISION.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Export a trained predictor to ONNX."""
    with extra("train"):
        from lengthwise_training.export.onnx_export import ParityError, Precision
        from lengthwise_training.runs.run import export_run

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
        else "The predictor service has no hidden states and refuses this model. Predict with "
        f"lengthwise_training.backbones.hidden_states.HiddenModel('{out}/fp32')."
    )
    return (
        f"{report['task']}: tau-b {report['tau_b']:.3f}, pairs {report['pair_accuracy']:.3f}, MAE "
        f"{report['mae_tokens']:.1f} tokens on {report['n']} test rows; trained in "
        f"{report['train_seconds']:.0f} s\n{use}"
    )


def _log_to_stderr() -> None:
    """Log progress to stderr, apart from --json."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    for noisy in ("httpx", "transformers", "onnxruntime"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
