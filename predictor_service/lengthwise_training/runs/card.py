"""The content of model.json for a run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lengthwise_training.data.examples import TEST_FOLD, VALIDATION_FOLD, Examples
from lengthwise_training.export import model_card
from lengthwise_training.fitting.config import FitConfig
from lengthwise_training.fitting.prepared import PreparedRows


def describe(config: FitConfig, prepared: PreparedRows, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the content of model.json, without what the export measures."""
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
        "rows": fold_counts(examples),
        "metrics": flat_metrics(metrics),
        "config": asdict(config),
    }


def fold_counts(examples: Examples) -> dict[str, int]:
    """Count the rows of each side of the split."""
    test, validation = examples.folds == TEST_FOLD, examples.folds == VALIDATION_FOLD
    return {
        "train": int((~test & ~validation).sum()),
        "validation": int(validation.sum()),
        "test": int(test.sum()),
    }


def flat_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics without the task and the card."""
    return {k: v for k, v in metrics.items() if k not in ("task", "card")}
