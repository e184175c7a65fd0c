"""Calibrates a trained task on validation rows.

A rank score becomes tokens by isotonic regression of log length on score, with straight lines
between the steps' middles, so that scores that were not tied stay apart. Then every task's middle
is shifted until half of the answers are longer, and its p10 and p90 until a tenth lies beyond each.
Called by `fit`.
"""

# mypy: warn-return-any=False

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression
from torch import Tensor

from lengthwise_training.fitting.task_predictor import KNOTS, TaskPredictor

Array = NDArray[np.float64]

#: Slope of the map beyond its ends and across its steps, as a share of the overall slope.
LEAST_SLOPE = 0.05


def fit_calibration(
    predictor: TaskPredictor,
    raw: tuple[Tensor, Tensor],
    tokens: NDArray[np.float32],
    known: NDArray[np.bool_],
    cut: NDArray[np.bool_],
) -> None:
    """Fill in `predictor.calibration`, in place.

    Args:
        predictor: Trained.
        raw: The trunk's numbers for the validation rows, float32, (rows, outputs): for an unknown
            LLM, and for the right one.
        tokens: float32, (rows, n), tokens.
        known: bool, (rows, n).
        cut: bool, (rows, n); such a sample counts as longer than any prediction.
    """
    if len(tokens) == 0:
        return
    with torch.inference_mode():
        _fit(predictor, raw, tokens, known, cut)


def _fit(
    predictor: TaskPredictor,
    raw: tuple[Tensor, Tensor],
    tokens: NDArray[np.float32],
    known: NDArray[np.bool_],
    cut: NDArray[np.bool_],
) -> None:
    calibration = predictor.calibration
    row, column = np.nonzero(known)
    lengths = tokens[row, column].astype(np.float64)
    ended = ~cut[row, column]
    if predictor.head.ranks_only:
        score = predictor.head.middle(raw[1]).double().numpy()
        scores, logs = monotone_map(score[row], np.log(lengths))
        calibration.scores.copy_(torch.from_numpy(scores))
        calibration.tokens.copy_(torch.from_numpy(logs))
    logs = np.where(ended, np.log(lengths), np.inf)
    for seen in (1, 0):
        p50, below, above, mean = predictor.decoded(raw[seen]).double().numpy().T
        if seen:
            shift = _finite_quantile(logs - p50[row], 0.5)
            calibration.shift.fill_(shift)
            predicted = np.exp(np.minimum(mean[row], 14.0)).mean()
            calibration.mean_shift.fill_(float(np.log(lengths.mean() / predicted)))
        error = logs - p50[row] - shift
        low = _finite_quantile(-error / below[row], 0.9)
        high = _finite_quantile(error / above[row], 0.9)
        calibration.gaps[seen] = torch.tensor([max(low, 0.05), max(high, 0.05)])


def monotone_map(score: Array, log_tokens: Array) -> tuple[Array, Array]:
    """Fit a rising map from score to log tokens: its knots, float64, (`KNOTS`,) each.

    Args:
        score: float64, (n,), larger for longer.
        log_tokens: float64, (n,).
    """
    order = np.argsort(score, kind="stable")
    x, y = score[order], log_tokens[order]
    fitted = isotonic_regression(y)
    spread = max(float(x.std()), 1e-6)
    slope = LEAST_SLOPE * max(float(np.polyfit(x, y, 1)[0]) if np.ptp(x) > 0 else 0.0, 0.1 / spread)
    # Equal shares of the rows between knots; a knot is the mean of the rows near it.
    parts = [p for p in np.array_split(np.arange(len(x)), KNOTS - 2) if len(p)]
    at = np.array([x[p].mean() for p in parts])
    value = np.array([fitted[p].mean() for p in parts])
    at, first = np.unique(at, return_index=True)
    value = value[first]
    while len(at) < KNOTS - 2:
        at, value = np.append(at, at[-1] + spread), np.append(value, value[-1])
    at = np.concatenate([[at[0] - spread], at, [at[-1] + spread]])
    value = np.concatenate([[value[0]], value, [value[-1]]])
    # A flat step gets a slight slope, so that two scores never give the same length.
    return at, value + slope * (at - at.mean())


def _finite_quantile(values: Array, quantile: float) -> float:
    """Return a quantile of values; if it is infinite, the largest finite value."""
    found = float(np.quantile(values, quantile, method="higher"))
    if np.isfinite(found):
        return found
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else 0.0
