"""Measures a trained task on the test fold, and the time of a prediction.

Called by `run` and `all_tasks`.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lengthwise_predictor.model import LengthModel
from lengthwise_training.data.examples import TEST_FOLD, Examples
from lengthwise_training.data.rows import LengthTable
from lengthwise_training.fitting.config import FitConfig
from lengthwise_training.fitting.cross_predictor import CrossPredictor
from lengthwise_training.fitting.pair_trainer import against_anchors, inserted
from lengthwise_training.fitting.prepared import PreparedRows, read_all, unchanged_vectors
from lengthwise_training.fitting.task_predictor import TaskPredictor
from lengthwise_training.objectives.head import RankScores
from lengthwise_training.scoring.scores import PredictedLengths, pair_accuracy, score, tau_b


def measure_task(
    predictor: TaskPredictor, prepared: PreparedRows, config: FitConfig
) -> dict[str, Any]:
    """Score a task on the test fold; for classes and pairs, also as their inventors decide."""
    rows, log_tokens, raw = answer_test_rows(predictor, prepared, config)
    if len(rows) == 0:
        raise ValueError("the test fold has no rows; give more rows")
    table = rows.as_table()
    p10, p50, p90 = np.exp(log_tokens.double().numpy()[:, :3].T)
    out = score_test_rows(table, PredictedLengths(p50, p10, p90))
    if isinstance(predictor, CrossPredictor):
        out |= _by_insertion(predictor, prepared, p50)

    def rank_scores(log_tokens: Tensor) -> RankScores:
        found = score_test_rows(table, PredictedLengths(log_tokens.double().exp().numpy()))
        return found["tau_b"], found["pair_accuracy"]

    tokens, known = torch.from_numpy(rows.tokens), torch.from_numpy(rows.known)
    out |= predictor.head.own_scores(raw, tokens, known, rank_scores)
    return out


def answer_test_rows(
    predictor: TaskPredictor, prepared: PreparedRows, config: FitConfig
) -> tuple[Examples, torch.Tensor, torch.Tensor]:
    """Predict the test rows.

    Returns:
        The rows; log tokens, float32, (rows, 4); and the head's raw numbers, float32, (rows,
        outputs).
    """
    examples = prepared.examples
    at = np.flatnonzero(examples.folds == TEST_FOLD)
    llm = torch.from_numpy(examples.llm_index[at] + 1)
    if isinstance(predictor, CrossPredictor):
        raw = against_anchors(predictor.to(config.device), prepared, at)
    else:
        raw = test_raw(predictor, prepared, config)
    predictor.to("cpu")
    with torch.inference_mode():
        log_tokens = predictor.calibration(predictor.decoded(raw), llm)
    return examples.rows_where(examples.folds == TEST_FOLD), log_tokens, raw


def test_raw(predictor: TaskPredictor, prepared: PreparedRows, config: FitConfig) -> Tensor:
    """Compute the trunk's raw numbers for the test rows, float32, (rows, outputs)."""
    examples = prepared.examples
    rows = np.flatnonzero(examples.folds == TEST_FOLD)
    prompts = np.unique(examples.prompt_index[rows])
    predictor.eval()
    if config.tuned:
        vectors = read_all(predictor.encoder.to(config.device), prepared, prompts)
        predictor.to("cpu")
    else:
        vectors = unchanged_vectors(prepared)
    at, llm = examples.prompt_index[rows], torch.from_numpy(examples.llm_index[rows] + 1)
    with torch.inference_mode():
        return predictor.trunk(vectors[at], prepared.features[at], llm)


def _by_insertion(
    predictor: CrossPredictor, prepared: PreparedRows, p50: NDArray[np.float64]
) -> dict[str, float]:
    """Score the method as its inventors use it: lists ordered by insertion, pair by pair."""
    examples = prepared.examples
    rows = np.flatnonzero(examples.folds == TEST_FOLD)
    orders, comparisons = inserted(predictor, prepared, examples, rows)
    table = examples.rows_where(examples.folds == TEST_FOLD).as_table()
    truth = np.array([s[c] for s, c in zip(table.samples, table.one_sample(), strict=True)])
    found = [
        (np.arange(len(o), dtype=np.float64), truth[o], p50[o])
        for o in orders
        if np.ptp(truth[o]) > 0
    ]
    if not found:
        return {}
    return {
        "inserted_tau_b": float(np.mean([tau_b(place, real) for place, real, _ in found])),
        "inserted_pairs": float(np.mean([pair_accuracy(place, real) for place, real, _ in found])),
        "inserted_by_anchors_tau_b": float(
            np.mean([tau_b(predicted, real) for _, real, predicted in found])
        ),
        "questions_per_prompt": comparisons / sum(map(len, orders)),
    }


def latency_ms(folder: Path, prompts: Sequence[str]) -> float:
    """Measure the median time of one prediction, served on one thread, ms.

    Args:
        folder: Of an exported model.
        prompts: Each is predicted once.
    """
    model = LengthModel(folder, provider="cpu", intra_op_threads=1)
    model.predict(prompts[0], "*")
    times = []
    for prompt in prompts:
        began = time.perf_counter()
        model.predict(prompt, "*")
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def score_test_rows(table: LengthTable, predicted: PredictedLengths) -> dict[str, Any]:
    """Score predictions as `evaluate` does; where no LLM has enough rows, rank all rows at once."""
    found = score(table, predicted)
    assert found is not None  # noqa: S101  (every predictor here answers every row)
    out = found.as_json()
    if out["tau_b"] is None:
        truth = np.array([s[c] for s, c in zip(table.samples, table.one_sample(), strict=True)])
        out["tau_b"] = out["tau_b_pooled"] = tau_b(predicted.p50, truth)
        out["pair_accuracy"] = pair_accuracy(predicted.p50, truth)
    return out
