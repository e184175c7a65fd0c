"""From a file of rows to a folder with a model, for one task or all; called by `lengthwise train`.

A run's folder holds config.json (all it depends on), checkpoint.pt (to go on after a kill),
weights.safetensors, metrics.json, and a folder for each precision that was exported.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from lengthwise_training.backbones import hidden_states
from lengthwise_training.compare.baselines import BagOfWords, Constant, PromptLength
from lengthwise_training.compare.report import CEILING, ceiling
from lengthwise_training.data.examples import (
    TEST_FOLD,
    VALIDATION_FOLD,
    Examples,
    draw,
    layout,
    read_rows,
)
from lengthwise_training.export import model_card
from lengthwise_training.export.onnx import PROBES, Precision, export, probe_inputs
from lengthwise_training.fitting import config as fit_config
from lengthwise_training.fitting.assembly import skeleton
from lengthwise_training.fitting.config import FitConfig
from lengthwise_training.fitting.fit import CHECKPOINT, Run, fit
from lengthwise_training.fitting.measure import latency_ms, measure, scores
from lengthwise_training.fitting.pairs import PairRun
from lengthwise_training.fitting.predictor import TaskPredictor
from lengthwise_training.fitting.prepared import Prepared, prepare
from lengthwise_training.objectives.tasks import Task

log = logging.getLogger(__name__)

WEIGHTS, METRICS, CARD = "weights.safetensors", "metrics.json", "MODEL_CARD.md"

#: Prompts of the validation rows that parity is measured on, beside the probes.
PARITY_TEXTS = 64

#: Prompts that a prediction is timed on.
TIMED = 50


class RunMismatch(ValueError):
    """The folder holds another run; the caller names another folder, or starts it anew."""


def read(config: FitConfig, data: Path) -> Examples:
    """The rows that a run is about; see examples for what may go wrong."""
    rows, left_out = read_rows(
        data, rounds=config.rounds, llms=config.llms, cap_tokens=config.cap_tokens
    )
    return draw(
        layout(rows, left_out), sample=config.sample, test_rows=config.test_rows, seed=config.seed
    )


def train(
    config: FitConfig,
    data: Path,
    folder: Path,
    *,
    hidden: Path | None = None,
    restart: bool = False,
    prepared: Prepared | None = None,
    precision: Precision = Precision.FP32,
) -> dict[str, Any]:
    """Train a task, or go on where it was killed, and export it; returns metrics.json.

    Args:
        config: All it depends on, beside the rows.
        data: JSONL, see examples.read_rows.
        folder: Of the run; made if it is missing.
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
        for name in (fit_config.CONFIG, CHECKPOINT, WEIGHTS, METRICS):
            (folder / name).unlink(missing_ok=True)
    if (folder / fit_config.CONFIG).is_file():
        before, earlier = fit_config.load(folder)
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
        _save_backbone(prepared, folder)
    predictor, progress = fit(prepared, config, folder, run_type(config.task))
    save_file({k: v.contiguous() for k, v in predictor.state_dict().items()}, folder / WEIGHTS)
    metrics = {
        "task": str(config.task),
        **measure(predictor, prepared, config),
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
    # What export needs once the rows are gone; written last: a folder that has it is complete.
    metrics["card"] = card
    (folder / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


def prepare_run(config: FitConfig, data: Path, hidden: Path | None = None) -> Prepared:
    """Read the rows and load the backbone."""
    torch.set_num_threads(config.threads)
    examples = read(config, data)
    vectors = None if hidden is None else hidden_states.lookup(hidden, examples.prompts)
    return prepare(examples, config, vectors)


def train_all(
    config: FitConfig,
    data: Path,
    folder: Path,
    *,
    tasks: Sequence[Task] = tuple(Task),
    hidden: Path | None = None,
    restart: bool = False,
    rivals: bool = True,
) -> dict[str, Any]:
    """Every task on the same rows and folds, each in a folder of its name; the table of all.

    Args:
        config: Its task is passed over.
        data: JSONL.
        folder: Holds the runs' folders.
        tasks: Which.
        hidden: Vectors of the served LLM.
        restart: Forget earlier runs.
        rivals: Whether the baselines are measured on the same rows.

    Returns:
        `{"rows": [{"predictor", "n", "tau_b", ...}], "data": {...}}`, the best tau-b first.
    """
    prepared = prepare_run(config, data, hidden)
    rows = []
    for task in tasks:
        if task is Task.PAIR_CROSS_ENCODER and hidden is not None:
            log.info("%s is left out: it reads texts", task)
            continue
        mine = replace(config, task=task)
        metrics = train(mine, data, folder / task, prepared=prepared, restart=restart)
        rows.append({"predictor": str(task), **_flat(metrics)})
        log.info("%s: tau-b %.3f in %.0f s", task, metrics["tau_b"], metrics["train_seconds"])
    rows.sort(key=lambda r: -r["tau_b"])
    examples = prepared.examples
    if rivals:
        learn = examples.rows_where(examples.folds != TEST_FOLD).as_table()
        test = examples.rows_where(examples.folds == TEST_FOLD).as_table()
        words = BagOfWords(learn)
        for name, said in (
            ("constant", Constant(learn).predict(test)),
            ("prompt length", PromptLength(learn).predict(test)),
            ("bag of words, one for all LLMs", words.predict_together(test)),
            (CEILING, ceiling(test)),
        ):
            # Rows of a single sample have no ceiling.
            if np.isfinite(said.p50).any():
                rows.append({"predictor": name, **scores(test, said)})
    return {
        "rows": rows,
        "data": {
            "rows": _counts(examples),
            "llms": examples.llms,
            "left_out": examples.left_out,
            "backbone": asdict(config.backbone),
            "read_cpu_seconds": prepared.read_cpu_s,
            "seed": config.seed,
        },
    }


def table(report: dict[str, Any]) -> str:
    """`train_all`'s report as Markdown."""
    lines = [
        "| task | tau-b | pooled | pairs | MAE, tokens | p10-p90 | CPU, s | ms | "
        "as its inventors decide: tau-b, pairs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in report["rows"]:
        covered = "" if r.get("coverage") is None else f"{r['coverage']:.2f}"
        seconds = "" if r.get("train_cpu_seconds") is None else f"{r['train_cpu_seconds']:.0f}"
        alone = ""
        if r.get("likeliest_tau_b") is not None:
            alone = f"likeliest class: {r['likeliest_tau_b']:.3f}, {r['likeliest_pairs']:.3f}"
        if r.get("inserted_tau_b") is not None:
            alone = f"insertion: {r['inserted_tau_b']:.3f}, {r['inserted_pairs']:.3f}"
        took = "" if r.get("latency_p50_ms") is None else f"{r['latency_p50_ms']:.1f}"
        lines.append(
            f"| {r['predictor']} | {r['tau_b']:.3f} | {r['tau_b_pooled']:.3f} | "
            f"{r['pair_accuracy']:.3f} | {r['mae_tokens']:.1f} | {covered} | {seconds} | {took} | "
            f"{alone} |"
        )
    return "\n".join(lines)


def export_run(folder: Path, precision: Precision, out: Path | None = None) -> dict[str, Any]:
    """Export a finished run in a precision; returns the card as written.

    Args:
        folder: Of the run.
        precision: Which.
        out: Where to; None is a folder of the precision's name in the run's.

    Raises:
        FileNotFoundError: The folder holds no finished run.
    """
    config, saved = fit_config.load(folder)
    if not (folder / METRICS).is_file():
        raise FileNotFoundError(
            f"{folder} holds an unfinished run; give `lengthwise train` the same arguments once "
            "more, and it goes on"
        )
    card = json.loads((folder / METRICS).read_text(encoding="utf-8"))["card"]
    predictor, tokenizer = skeleton(config, folder, saved["width"], card["llms"][1:])
    predictor.load_state_dict(load_file(folder / WEIGHTS))
    probes = load_file(folder / "probes.safetensors")
    out = out or folder / precision
    inputs = (probes["inputs"], probes["features"], probes["llm"])
    written = export(predictor, tokenizer, card, out, precision, inputs)
    (out / CARD).write_text(model_card.markdown(written, config), encoding="utf-8")
    return written


def run_type(task: Task) -> type[Run]:
    """What makes the steps of a task."""
    return PairRun if task is Task.PAIR_CROSS_ENCODER else Run


def describe(config: FitConfig, prepared: Prepared, metrics: dict[str, Any]) -> dict[str, Any]:
    """What model.json says, but for what the export finds out."""
    examples = prepared.examples
    return {
        "version": f"{config.task}-{examples.fingerprint()[:8]}",
        "llms": ["*", *examples.llms],
        "sources": None,
        "held_out_validation": True,
        "training_data": model_card.data_facts(examples),
        "left_out": examples.left_out,
        "samples": int(examples.known.sum()),
        "cut_samples": int((examples.cut & examples.known).sum()),
        "rows": _counts(examples),
        "metrics": _flat(metrics),
        "config": asdict(config),
    }


def _shape(prepared: Prepared) -> dict[str, Any]:
    return {"width": int(prepared.encoder.width), "llms_learned": prepared.examples.llms}


def _save_backbone(prepared: Prepared, folder: Path) -> None:
    """What `encoders.rebuild` reads, and the inputs that parity is measured on."""
    prepared.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    shape = getattr(getattr(prepared.encoder, "model", None), "config", None)
    if shape is not None:
        shape.save_pretrained(folder / "backbone")
    inputs, features, llm = _parity_inputs(prepared)
    save_file(
        {"inputs": inputs.contiguous(), "features": features.contiguous(), "llm": llm},
        folder / "probes.safetensors",
    )


def _parity_inputs(prepared: Prepared) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    examples = prepared.examples
    rows = np.flatnonzero(examples.folds == VALIDATION_FOLD)[:PARITY_TEXTS]
    prompts = examples.prompt_index[rows]
    if prepared.ids:
        texts = [*(examples.prompts[i] for i in prompts), *PROBES]
        return probe_inputs(texts, prepared.tokenizer, prepared.encoder, len(examples.llms))
    assert prepared.raw_vectors is not None  # noqa: S101  (narrows the type only)
    llm = torch.from_numpy(examples.llm_index[rows] + 1)
    return prepared.raw_vectors[prompts], prepared.features[prompts], llm


def _export(
    predictor: TaskPredictor,
    prepared: Prepared,
    card: dict[str, Any],
    folder: Path,
    precision: Precision,
) -> dict[str, Any]:
    inputs = _parity_inputs(prepared)
    return export(predictor, prepared.tokenizer, card, folder, precision, inputs)


def _counts(examples: Examples) -> dict[str, int]:
    test, validation = examples.folds == TEST_FOLD, examples.folds == VALIDATION_FOLD
    return {
        "train": int((~test & ~validation).sum()),
        "validation": int(validation.sum()),
        "test": int(test.sum()),
    }


def _flat(metrics: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in metrics.items() if k not in ("task", "card")}
