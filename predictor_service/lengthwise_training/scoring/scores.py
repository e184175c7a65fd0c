"""Scores of predicted lengths: rank, error and coverage, on rows with any number of samples.

Rank is scored within each LLM, because a queue holds one LLM, and then averaged. An answer that was
cut at a cap ranks as the cap: longer than every shorter answer, and tied with other cut ones. In
the errors only a prediction below the cap counts. Coverage and pinball loss leave cut answers out,
because their true length is unknown.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from lengthwise_training.data.rows import LengthTable

Array = NDArray[np.float64]

#: An LLM needs this many rows for a rank score; below it, its cells are null.
LEAST_ROWS = 20


@dataclass(frozen=True)
class PredictedLengths:
    """The lengths that a predictor returned for each row.

    Attributes:
        p50: float64, (rows,), tokens; NaN where there is no prediction.
        p10, p90: The same for those quantiles; None: the predictor has none.
    """

    p50: Array
    p10: Array | None = None
    p90: Array | None = None

    def where(self, keep: NDArray[np.bool_]) -> PredictedLengths:
        """Keep only some rows; `keep`: bool, (rows,)."""
        return PredictedLengths(
            self.p50[keep],
            None if self.p10 is None else self.p10[keep],
            None if self.p90 is None else self.p90[keep],
        )


@dataclass(frozen=True)
class Scores:
    """Scores of some rows; None where there is nothing to score.

    Attributes:
        n: Rows scored.
        tau_b: Kendall's tau-b with one realised sample; of several LLMs, their mean.
        tau_b_mean: The same with the mean of a row's samples.
        tau_b_pooled: Tau-b over the rows of all LLMs at once.
        pair_accuracy: Share of pairs of one LLM in the right order; a predicted tie is half right.
        spearman: Spearman's rho, as tau_b.
        mae_tokens: Mean absolute error of p50, tokens.
        rmse_tokens: Root of the mean squared error of p50, tokens.
        within_50, within_100: Share of rows whose p50 is at most so many tokens off.
        coverage: Share of samples within p10 to p90; 0.8 is right.
        pinball: Mean pinball loss of p10, p50 and p90, tokens.
        censored: Share of the samples scored against that were cut at a cap.
    """

    n: int
    tau_b: float | None
    tau_b_mean: float | None
    tau_b_pooled: float | None
    pair_accuracy: float | None
    spearman: float | None
    mae_tokens: float
    rmse_tokens: float
    within_50: float
    within_100: float
    coverage: float | None
    pinball: float | None
    censored: float

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def score(table: LengthTable, predicted: PredictedLengths) -> Scores | None:
    """Score predictions of these rows; None if no row has a prediction."""
    finite = np.isfinite(predicted.p50)
    if not finite.any():
        return None
    if not finite.all():
        table, predicted = table.where(finite), predicted.where(finite)
    column = table.one_sample()
    truth = np.array([s[c] for s, c in zip(table.samples, column, strict=True)])
    cut = np.array([s[c] for s, c in zip(table.censored, column, strict=True)])
    mean = np.array([s.mean() for s in table.samples])
    ranks = []
    for llm in np.unique(table.llms):
        of_llm = table.llms == llm
        if of_llm.sum() >= LEAST_ROWS:
            p, y = predicted.p50[of_llm], truth[of_llm]
            ranks.append(
                (tau_b(p, y), tau_b(p, mean[of_llm]), pair_accuracy(p, y), _spearman(p, y))
            )
    by_llm = [float(x) for x in np.nanmean(np.array(ranks), axis=0)] if ranks else [None] * 4
    off = predicted.p50 - truth
    error = np.where(cut, np.maximum(-off, 0.0), np.abs(off))
    return Scores(
        n=len(table),
        tau_b=by_llm[0],
        tau_b_mean=by_llm[1],
        tau_b_pooled=tau_b(predicted.p50, truth) if len(truth) >= LEAST_ROWS else None,
        pair_accuracy=by_llm[2],
        spearman=by_llm[3],
        mae_tokens=float(error.mean()),
        rmse_tokens=float(np.sqrt((error**2).mean())),
        within_50=float((error <= 50).mean()),
        within_100=float((error <= 100).mean()),
        coverage=_coverage(table, predicted),
        pinball=_pinball(truth[~cut], predicted.where(~cut)),
        censored=float(cut.mean()),
    )


def tau_b(predicted: Array, truth: Array) -> float:
    """Compute Kendall's tau-b; 0 where one side is constant, which orders nothing."""
    if len(truth) < 2 or np.ptp(predicted) == 0 or np.ptp(truth) == 0:
        return 0.0
    return float(kendalltau(predicted, truth).statistic)


def _spearman(predicted: Array, truth: Array) -> float:
    if np.ptp(predicted) == 0 or np.ptp(truth) == 0:
        return 0.0
    return float(spearmanr(predicted, truth).statistic)


def pair_accuracy(predicted: Array, truth: Array) -> float:
    """Compute the share of pairs in the right order; a predicted tie is half right.

    Pairs that tie in truth are left out. Computed from tau-b, whose numerator is the right pairs
    minus the wrong ones, in O(n log n).
    """
    pairs = len(truth) * (len(truth) - 1) / 2
    ordered, ties = pairs - _tied(truth), pairs - _tied(predicted)
    if ordered == 0:
        return float("nan")
    return float((tau_b(predicted, truth) * np.sqrt(ordered * ties) / ordered + 1.0) / 2.0)


def _tied(values: Array) -> float:
    _, counts = np.unique(values, return_counts=True)
    return float((counts * (counts - 1) / 2).sum())


def _coverage(table: LengthTable, predicted: PredictedLengths) -> float | None:
    if predicted.p10 is None or predicted.p90 is None:
        return None
    inside = known = 0
    for samples, cut, low, high in zip(
        table.samples, table.censored, predicted.p10, predicted.p90, strict=True
    ):
        seen = samples[~cut]
        inside += int(((seen >= low) & (seen <= high)).sum())
        known += len(seen)
    return inside / known if known else None


def _pinball(truth: Array, predicted: PredictedLengths) -> float | None:
    if predicted.p10 is None or predicted.p90 is None or len(truth) == 0:
        return None
    losses = []
    for q, at in ((0.1, predicted.p10), (0.5, predicted.p50), (0.9, predicted.p90)):
        off = truth - at
        losses.append(np.maximum(q * off, (q - 1.0) * off).mean())
    return float(np.mean(losses))
