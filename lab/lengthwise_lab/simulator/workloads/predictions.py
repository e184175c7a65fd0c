"""Predictions of a chosen quality: exact, of a chosen tau, reversed, constant, recorded.

A predictor is fitted to a sample of the lengths that it will predict, as a trained one is. So its
predictions are right on average, and only their rank is wrong. All randomness comes from the
caller's generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import kendalltau

from lengthwise_lab.errors import BadChoice
from lengthwise_lab.simulator.core.state import Floats
from lengthwise_lab.simulator.workloads.jobs import Jobs

#: Sample size for fitting and for tau: the standard error of tau at 20,000 is below 0.005.
SAMPLE = 20_000


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A predictor of lengths.

    Attributes:
        name: Its name, for a reader.
        predict: Returns the predictions of some requests, tokens.
        spread: Standard deviation of the logarithm of the true length over its prediction.
    """

    name: str
    predict: Callable[[Jobs, np.random.Generator], Floats]
    spread: float


def tau_b(truth: Floats, predicted: Floats) -> float:
    """Return Kendall's tau-b of the first `SAMPLE` pairs; 0 if truth or prediction is constant."""
    if len(truth) < 2:
        return 0.0
    tau = float(kendalltau(truth[:SAMPLE], predicted[:SAMPLE]).statistic)
    return 0.0 if np.isnan(tau) else tau


def make_predictor(name: str, sample: Jobs, *, tau: float | None, seed: int) -> Predictor:
    """Make a predictor for requests like those of the sample.

    Args:
        name: `oracle`; `noisy`, which needs `tau`; `reversed`, which swaps long and short;
            `constant`, the median; `random`, of the right lengths in no order; `recorded`, the
            class that a real predictor chose, as the mean length of that class.
        sample: Requests like those of the workload.
        tau: The Kendall's tau-b of `noisy`, 0 to 1 (as far as ties allow).
        seed: The seed of the noise in the fit.

    Raises:
        BadChoice: There is no such predictor, tau is out of reach, or nothing was recorded.
    """
    rng = np.random.default_rng([seed, 77])
    truth = sample.output[:SAMPLE].astype(np.float64)
    if name == "oracle":
        return Predictor(name=name, predict=lambda jobs, _: jobs.output.astype(float), spread=1e-3)
    if name == "constant":
        median = float(np.median(truth))
        return _with_spread(name, lambda jobs, _: np.full(len(jobs), median), sample, rng)
    if name == "random":
        return _with_spread(name, lambda jobs, own: own.choice(truth, len(jobs)), sample, rng)
    if name == "reversed":
        up = np.sort(truth)
        down = up[::-1]
        return _with_spread(
            name, lambda jobs, _: np.interp(jobs.output.astype(float), up, down), sample, rng
        )
    if name == "recorded":
        return _recorded(sample, rng)
    if name == "noisy":
        if tau is None or not 0 < tau < 1:
            raise BadChoice(f"a noisy predictor needs a tau between 0 and 1, got {tau}")
        return _noisy(sample, truth, tau, rng)
    raise BadChoice(
        f"no predictor {name!r}; it must be one of oracle, noisy, reversed, constant, random, "
        "recorded"
    )


def _noisy(sample: Jobs, truth: Floats, tau: float, rng: np.random.Generator) -> Predictor:
    """Add Gaussian noise to the logarithm of the length, then map each score to a mean length."""
    noise = rng.standard_normal(len(truth))
    logs = np.log(truth)

    def reached(sigma: float) -> float:
        return tau_b(truth, logs + sigma * noise)

    low, high = 1e-3, 50.0
    if reached(low) < tau:
        raise BadChoice(f"tau {tau} is out of reach: the lengths have too many ties")
    for _ in range(24):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if reached(middle) > tau else (low, middle)
    sigma = float(np.sqrt(low * high))
    score = logs + sigma * noise
    order = np.argsort(score)
    bins = min(60, max(2, len(truth) // 50))
    centres = np.array([np.median(part) for part in np.array_split(score[order], bins)])
    means = np.array([part.mean() for part in np.array_split(truth[order], bins)])
    # Ascending, so that the calibration keeps the order that sets tau, and no two scores tie.
    means = np.asarray(isotonic_regression(means).x) + 1e-6 * np.arange(bins)
    slope = 1e-3 * truth.mean()

    def predict(jobs: Jobs, own: np.random.Generator) -> Floats:
        scores = np.log(jobs.output) + sigma * own.standard_normal(len(jobs))
        inside = np.interp(scores, centres, means)
        beyond = np.clip(scores - centres[-1], 0, None) - np.clip(centres[0] - scores, 0, None)
        return np.asarray(np.maximum(inside + slope * np.tanh(beyond), 0.5))

    return _with_spread(f"noisy, tau {tau:g}", predict, sample, rng)


def _recorded(sample: Jobs, rng: np.random.Generator) -> Predictor:
    if (sample.recorded < 0).any():
        raise BadChoice(
            "the workload has no recorded predictions; choose lengths that have them, such as ssjf"
        )
    classes = int(sample.recorded.max()) + 1
    overall = float(sample.output.mean())
    means = np.array(
        [
            sample.output[sample.recorded == c].mean() if (sample.recorded == c).any() else overall
            for c in range(classes)
        ]
    )
    return _with_spread(
        "recorded", lambda jobs, _: means[np.minimum(jobs.recorded, classes - 1)], sample, rng
    )


def _with_spread(
    name: str,
    predict: Callable[[Jobs, np.random.Generator], Floats],
    sample: Jobs,
    rng: np.random.Generator,
) -> Predictor:
    few = sample.part(0, SAMPLE)
    spread = float(np.std(np.log(few.output) - np.log(np.maximum(predict(few, rng), 1e-6))))
    return Predictor(name=name, predict=predict, spread=min(max(spread, 1e-3), 1.5))
