"""Scores of predictions on the bundled model's dataset: rank quality, error and coverage.

These produced the numbers of the bundled model's card, and stay as they are so that the card can be
reproduced. `lengthwise evaluate` uses `scoring.scores`, which also handles answers cut at a cap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from lengthwise_training.bundled.dataset import Dataset

Array = NDArray[np.float64]

#: An LLM or source needs this many rows for a rank score.
LEAST_ROWS = 20


@dataclass(frozen=True)
class DatasetScores:
    """Scores of predictions; those of rank are means over LLMs, since a queue holds one LLM.

    Attributes:
        rows: Rows scored.
        tau_b: Kendall's tau-b with one realised sample, mean over LLMs.
        tau_b_pooled: The same over all rows at once.
        tau_b_mean: Tau-b with the mean of the samples, mean over LLMs.
        pair_accuracy: Share of pairs of one LLM in the right order, ties in truth left out.
        spearman: Spearman's rho with one sample, mean over LLMs.
        mae_tokens: Mean absolute error of the median, tokens.
        coverage: Share of samples within p10 to p90; None where there are no quantiles.
    """

    rows: int
    tau_b: float
    tau_b_pooled: float
    tau_b_mean: float
    pair_accuracy: float
    spearman: float
    mae_tokens: float
    coverage: float | None


def score_dataset(
    rows: Dataset, p50: Array, band: tuple[Array, Array] | None = None
) -> DatasetScores:
    """Score medians, and quantiles if there are any, against one sample a row, drawn by seed 0.

    Args:
        rows: What was predicted.
        p50: float64, (rows,), tokens; only its order matters for the rank scores.
        band: p10 and p90, float64, (rows,) each, tokens.
    """
    truth = one_sample(rows)
    mean = rows.samples.mean(axis=1)
    per_llm = []
    for llm in np.unique(rows.llm_index):
        of_llm = rows.llm_index == llm
        if of_llm.sum() < LEAST_ROWS:
            continue
        p, y = p50[of_llm], truth[of_llm]
        per_llm.append(
            (
                _tau(p, y),
                _tau(p, mean[of_llm]),
                pair_accuracy(p, y),
                0.0 if np.ptp(p) == 0 else float(spearmanr(p, y).statistic),
            )
        )
    means = np.mean(per_llm, axis=0) if per_llm else np.full(4, np.nan)
    coverage = None
    if band is not None:
        inside = (rows.samples >= band[0][:, None]) & (rows.samples <= band[1][:, None])
        coverage = float(inside.mean())
    return DatasetScores(
        rows=len(truth),
        tau_b=float(means[0]),
        tau_b_pooled=_tau(p50, truth),
        tau_b_mean=float(means[1]),
        pair_accuracy=float(means[2]),
        spearman=float(means[3]),
        mae_tokens=float(np.abs(p50 - truth).mean()),
        coverage=coverage,
    )


def one_sample(rows: Dataset) -> Array:
    """Return one realised length a row, the same for every predictor: float64, (rows,), tokens."""
    rng = np.random.default_rng(0)
    column = rng.integers(0, rows.samples.shape[1], len(rows.samples))
    return rows.samples[np.arange(len(rows.samples)), column].astype(np.float64)


def ceiling(rows: Dataset) -> Array:
    """Return the mean of the samples other than the scored one: no prompt predicts better.

    Rows with a single sample have no such ceiling; for them the value has no meaning.
    """
    others = (rows.samples.sum(axis=1) - one_sample(rows)) / max(rows.samples.shape[1] - 1, 1)
    return np.asarray(others, dtype=np.float64)


def pair_accuracy(predicted: Array, truth: Array) -> float:
    """Return the share of pairs in the right order; a tie in `predicted` is half right."""
    gap = np.sign(truth[:, None] - truth[None, :])
    order = np.sign(predicted[:, None] - predicted[None, :])
    ordered = gap != 0
    if not ordered.any():
        return float("nan")
    return float(((order * gap)[ordered].mean() + 1.0) / 2.0)


def _tau(predicted: Array, truth: Array) -> float:
    if np.ptp(predicted) == 0 or np.ptp(truth) == 0:
        return 0.0
    return float(kendalltau(predicted, truth).statistic)


def many_sampled(dataset: Dataset) -> Dataset:
    """Keep rows of sources that were sampled several times, which have a ceiling.

    If there are none, keep all rows.
    """
    spread = np.ptp(dataset.samples, axis=1) > 0
    sources = np.array(dataset.row_sources)
    keep = [s for s in set(dataset.row_sources) if spread[sources == s].mean() > 0.5]
    return dataset.rows_where(np.isin(sources, keep)) if keep else dataset
