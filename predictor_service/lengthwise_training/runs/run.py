"""One run of `lengthwise train`: from a file of rows to a folder with a model.

A run that was killed continues when it is started again with the same arguments. `folder` says what
a run's folder holds. Called by `lengthwise train` and `lengthwise export`.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lengthwise_training.backbones import hidden_states
from lengthwise_training.data.examples import TEST_FOLD, Examples, draw, layout, read_rows
from lengthwise_training.export import model_card
from lengthwise_training.export.onnx_export import Precision, export_onnx
from lengthwise_training.fitting.assembly import skeleton
from lengthwise_training.fitting.config import CONFIG, FitConfig, load_config
from lengthwise_training.fitting.fit import CHECKPOINT, fit
from lengthwise_training.fitting.pair_trainer import PairTrainer
from lengthwise_training.fitting.prepared import PreparedRows, prepare
from lengthwise_training.fitting.task_predictor import TaskPredictor
from lengthwise_training.fitting.trainer import TaskTrainer
from lengthwise_training.objectives.tasks import OBJECTIVES, Task
from lengthwise_training.runs.card import describe
from lengthwise_training.runs.folder import CARD, METRICS, WEIGHTS, parity_inputs, save_backbone
from lengthwise_training.runs.measure import latency_ms, measure_task

#: Prompts that a prediction is timed on.
TIMED = 50


class RunMismatch(ValueError):
    """The folder holds another run; the caller names another folder, or restarts it."""


def read_examples(config: FitConfig, data: Path) -> Examples:
    """Read the rows of a run; see `data.examples` for the errors."""
    rows, left_out = read_rows(
        data, rounds=config.rounds, llms=config.llms, cap_tokens=config.cap_tokens
    )
    return draw(
        layout(rows, left_out), sample=config.sample, test_rows=config.test_rows, seed=config.seed
    )


def train_task(
    config: FitConfig,
    data: Path,
    folder: Path,
    *,
    hidden: Path | None = None,
    restart: bool = False,
    prepared: PreparedRows | None = None,
    precision: Precision = Precision.FP32,
) -> dict[str, Any]:
    """Train and export a task, or continue where it was killed; return metrics.json.

    Args:
        config: All the run depends on, beside the rows.
        data: JSONL, see examples.read_rows.
        folder: Of the run; created if it is missing.
        hidden: Vectors of the served LLM, see hidden_states.
        restart: Forget what the folder holds of an earlier run.
        prepared: The rows as read by another run of the same rows and backbone.
        precision: Exported at the end, to a folder of its name.

    Raises:
        RunMismatch: The folder holds a run of another configuration or of other rows.
    """
    prepared = prepared or prepare_run(config, data, hidden)
    examples = prepared.examples
    facts = {"fingerprint": examples.fingerprint(), **_shape(prepared)}
    folder.mkdir(parents=True, exist_ok=True)
    if restart:
        for name in (CONFIG, CHECKPOINT, WEIGHTS, METRICS):
            (folder / name).unlink(missing_ok=True)
    if (folder / CONFIG).is_file():
        before, earlier = load_config(folder)
        if before != config or earlier["fingerprint"] != facts["fingerprint"]:
            raise RunMismatch(
                f"{folder} holds a run of other settings or rows; name another --out, or start it "
                "anew with --restart"
            )
        if (folder / METRICS).is_file():
            metrics: dict[str, Any] = json.loads((folder / METRICS).read_text(encoding="utf-8"))
            return metrics
    else:
        config.save(folder, **facts)
        save_backbone(prepared, folder)
    predictor, progress = fit(prepared, config, folder, trainer_type(config.task))
    save_file({k: v.contiguous() for k, v in predictor.state_dict().items()}, folder / WEIGHTS)
    metrics = {
        "task": str(config.task),
        **measure_task(predictor, prepared, config),
        "validation_tau": progress.best_tau,
        "epochs": progress.epoch,
        "train_seconds": progress.seconds,
        "train_cpu_seconds": progress.cpu_seconds,
        "read_cpu_seconds": prepared.read_cpu_s,
    }
    card = describe(config, prepared, metrics)
    written = _export(predictor, prepared, card, folder / precision, precision)
    (folder / precision / CARD).write_text(model_card.markdown(written, config), encoding="utf-8")
    metrics["parity_max"] = written["parity_max"]
    if written["reads"] == "ids":
        test = prepared.examples.rows_where(prepared.examples.folds == TEST_FOLD)
        metrics["latency_p50_ms"] = latency_ms(folder / precision, test.prompts[:TIMED])
    # A later export needs the card. It is written last: a folder that has it is complete.
    metrics["card"] = card
    (folder / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


def prepare_run(config: FitConfig, data: Path, hidden: Path | None = None) -> PreparedRows:
    """Read the rows and load the backbone."""
    torch.set_num_threads(config.threads)
    examples = read_examples(config, data)
    vectors = None if hidden is None else hidden_states.lookup_vectors(hidden, examples.prompts)
    return prepare(examples, config, vectors)


def export_run(folder: Path, precision: Precision, out: Path | None = None) -> dict[str, Any]:
    """Export a finished run in a precision; return the card as written.

    Args:
        folder: Of the run.
        precision: Of the encoder.
        out: Target folder; None is a folder of the precision's name in the run's.

    Raises:
        FileNotFoundError: The folder holds no finished run.
    """
    config, saved = load_config(folder)
    if not (folder / METRICS).is_file():
        raise FileNotFoundError(
            f"{folder} holds an unfinished run; start `lengthwise train` with the same arguments "
            "to continue it"
        )
    card = json.loads((folder / METRICS).read_text(encoding="utf-8"))["card"]
    predictor, tokenizer = skeleton(config, folder, saved["width"], card["llms"][1:])
    predictor.load_state_dict(load_file(folder / WEIGHTS))
    probes = load_file(folder / "probes.safetensors")
    out = out or folder / precision
    inputs = (probes["inputs"], probes["features"], probes["llm"])
    written = export_onnx(predictor, tokenizer, card, out, precision, inputs)
    (out / CARD).write_text(model_card.markdown(written, config), encoding="utf-8")
    return written


def trainer_type(task: Task) -> type[TaskTrainer]:
    """Return the class that makes the training steps of a task."""
    return PairTrainer if OBJECTIVES[task].reads_pairs else TaskTrainer


def _shape(prepared: PreparedRows) -> dict[str, Any]:
    return {"width": int(prepared.encoder.width), "llms_learned": prepared.examples.llms}


def _export(
    predictor: TaskPredictor,
    prepared: PreparedRows,
    card: dict[str, Any],
    folder: Path,
    precision: Precision,
) -> dict[str, Any]:
    inputs = parity_inputs(prepared)
    return export_onnx(predictor, prepared.tokenizer, card, folder, precision, inputs)
