"""Every task on the same rows and folds, and the table that compares them.

Called by `lengthwise train --all-tasks`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from lengthwise_training.data.examples import TEST_FOLD
from lengthwise_training.fitting.config import FitConfig
from lengthwise_training.objectives.tasks import OBJECTIVES, Task
from lengthwise_training.runs.card import flat_metrics, fold_counts
from lengthwise_training.runs.measure import score_test_rows
from lengthwise_training.runs.run import prepare_run, train_task
from lengthwise_training.scoring.bag_of_words import BagOfWords
from lengthwise_training.scoring.baselines import CEILING, Constant, PromptLengthBaseline, ceiling

log = logging.getLogger(__name__)


def train_all(
    config: FitConfig,
    data: Path,
    folder: Path,
    *,
    tasks: Sequence[Task] = tuple(Task),
    hidden: Path | None = None,
    restart: bool = False,
    baselines: bool = True,
) -> dict[str, Any]:
    """Train every task on the same rows and folds, each in a folder of its name.

    Args:
        config: Its task is ignored.
        data: JSONL.
        folder: Holds the runs' folders.
        tasks: Which tasks.
        hidden: Vectors of the served LLM.
        restart: Forget earlier runs.
        baselines: Whether the baselines are measured on the same rows.

    Returns:
        `{"rows": [{"predictor", "n", "tau_b", ...}], "data": {...}}`, the best tau-b first.
    """
    prepared = prepare_run(config, data, hidden)
    rows = []
    for task in tasks:
        if OBJECTIVES[task].reads_pairs and hidden is not None:
            log.info("%s is left out: it reads texts", task)
            continue
        task_config = replace(config, task=task)
        metrics = train_task(task_config, data, folder / task, prepared=prepared, restart=restart)
        rows.append({"predictor": str(task), **flat_metrics(metrics)})
        log.info("%s: tau-b %.3f in %.0f s", task, metrics["tau_b"], metrics["train_seconds"])
    rows.sort(key=lambda r: -r["tau_b"])
    examples = prepared.examples
    if baselines:
        learn = examples.rows_where(examples.folds != TEST_FOLD).as_table()
        test = examples.rows_where(examples.folds == TEST_FOLD).as_table()
        words = BagOfWords(learn)
        for name, predicted in (
            ("constant", Constant(learn).predict(test)),
            ("prompt length", PromptLengthBaseline(learn).predict(test)),
            ("bag of words, one for all LLMs", words.predict_together(test)),
            (CEILING, ceiling(test)),
        ):
            # Rows of a single sample have no ceiling.
            if np.isfinite(predicted.p50).any():
                rows.append({"predictor": name, **score_test_rows(test, predicted)})
    return {
        "rows": rows,
        "data": {
            "rows": fold_counts(examples),
            "llms": examples.llms,
            "left_out": examples.left_out,
            "backbone": asdict(config.backbone),
            "read_cpu_seconds": prepared.read_cpu_s,
            "seed": config.seed,
        },
    }


def tasks_table(report: dict[str, Any]) -> str:
    """Format `train_all`'s report as Markdown."""
    lines = [
        "| task | tau-b | pooled | pairs | MAE, tokens | p10-p90 | CPU, s | ms | "
        "as its inventors decide: tau-b, pairs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    decisions = {o.own_decision for o in OBJECTIVES.values() if o.own_decision is not None}
    for r in report["rows"]:
        covered = "" if r.get("coverage") is None else f"{r['coverage']:.2f}"
        seconds = "" if r.get("train_cpu_seconds") is None else f"{r['train_cpu_seconds']:.0f}"
        alone = ""
        for own in decisions:
            if r.get(f"{own.key}_tau_b") is not None:
                alone = f"{own.label}: {r[f'{own.key}_tau_b']:.3f}, {r[f'{own.key}_pairs']:.3f}"
        took = "" if r.get("latency_p50_ms") is None else f"{r['latency_p50_ms']:.1f}"
        lines.append(
            f"| {r['predictor']} | {r['tau_b']:.3f} | {r['tau_b_pooled']:.3f} | "
            f"{r['pair_accuracy']:.3f} | {r['mae_tokens']:.1f} | {covered} | {seconds} | {took} | "
            f"{alone} |"
        )
    return "\n".join(lines)
