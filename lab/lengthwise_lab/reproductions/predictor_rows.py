"""The rows about SSJF's and sequence scheduling's predictors, without any schedule.

docs/research/reproductions.md explains them. LTR's are in ltr/tau.py, the probabilistic model's in
problen/rows.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from lengthwise_lab.reproductions.recorded_lengths import Ints, classified, sampled
from lengthwise_lab.reproductions.seqsch.strategies import ERROR_SD
from lengthwise_lab.reproductions.table.row import (
    About,
    Absent,
    NumberSource,
    ResearchSystem,
    TableRow,
    without_requests,
)

#: The bounds of SSJF's length classes, tokens.
_FIVE, _THREE = (42, 141, 294, 503), (141, 503)

#: The figures of its classifiers on the 85,482 answers that are published with their classes.
_SSJF = {
    "three classes": {"accuracy": 80.66, "tau-b": 0.567, "Pearson's r": 0.670,
                      "pair accuracy": 70.6, "MAE by class medians": 80.4},
    "five classes": {"accuracy": 60.00, "tau-b": 0.635, "Pearson's r": 0.737,
                     "pair accuracy": 77.7, "MAE by class medians": 69.1},
}  # fmt: skip
_UNITS = {"accuracy": "%", "pair accuracy": "%", "MAE by class medians": "tokens"}
#: A tolerance for each figure: its last published digit, and the reading of a class's bound.
_DIGIT = {"accuracy": 0.2, "tau-b": 0.002, "Pearson's r": 0.002, "pair accuracy": 0.2,
          "MAE by class medians": 0.3}  # fmt: skip

#: Sequence scheduling's tuned LLM, and a second sample of the same prompt as a prediction: mean
#: error, tokens, and shares within 50 and 100 tokens, %.
_PERCEIVER, _CEILING = (62.0, 59.0, 81.0), (42.6, 72.0, 88.0)
_CEILING_TAU = 0.668
_WITHIN = (("mean error", "tokens"), ("within 50 tokens", "%"), ("within 100 tokens", "%"))

_RANKS = "how near predictions come to answers whose lengths are recorded"
_STAND_IN = "stand-in lengths and classes, made to have their tau"


def rows(data: Path | None) -> Sequence[TableRow]:
    """Return the rows of SSJF's classifiers and sequence scheduling's perceiver; takes a second."""
    return [*_ssjf(data), *_not_published(), *_seqsch(data)]


def _row(
    system: ResearchSystem,
    name: str,
    setting: str,
    unit: str,
    published: float,
    kind: NumberSource,
    *,
    reproduced: float | None = None,
    tolerance: float | None = None,
    note: str = "",
    missing: Absent = Absent.INPUTS,
    about: About = About.PREDICTOR,
    why: str = _RANKS,
) -> TableRow:
    absent = {"lengthwise": Absent.NO_ORDER}
    if reproduced is None:
        absent |= {"reproduced": missing, "corrected": missing}
    else:
        absent["corrected"] = Absent.NO_DEFECT
    return TableRow(
        system=system,
        name=name,
        setting=setting,
        unit=unit,
        published=published,
        kind=kind,
        reproduced=reproduced,
        tolerance=tolerance,
        note=note,
        absent=absent,
        details=without_requests(about, why),
    )


def _ssjf(data: Path | None) -> list[TableRow]:
    answers = classified(data)
    found = []
    for name, edges, classes in (
        ("three classes", _THREE, answers.three),
        ("five classes", _FIVE, answers.five),
    ):
        got = _figures(answers.tokens, classes, edges)
        for figure, published in _SSJF[name].items():
            found.append(
                _row(
                    "SSJF",
                    f"predictor: {figure}",
                    f"{name}, 85,482 answers",
                    _UNITS.get(figure, ""),
                    published,
                    "their code, run",
                    reproduced=got[figure],
                    tolerance=_DIGIT[figure] if answers.recorded else None,
                    note="" if answers.recorded else _STAND_IN,
                )
            )
    return found


def _figures(tokens: Ints, classes: Ints, edges: Sequence[int]) -> dict[str, float]:
    """Measure predicted classes against the true lengths."""
    right = np.searchsorted(edges, tokens, side="right")
    tau = float(kendalltau(tokens, classes).statistic)
    medians = np.array([np.median(tokens[classes == c]) for c in range(len(edges) + 1)])
    # Of all pairs of different length, a tie of the classes counts as half right. tau-b is the
    # surplus of right pairs over the geometric mean of the pairs without ties.
    pairs, tied, tied_classes = (_pairs(values) for values in ((len(tokens),), tokens, classes))
    surplus = tau * np.sqrt((pairs - tied) * (pairs - tied_classes))
    return {
        "accuracy": float(100 * (right == classes).mean()),
        "tau-b": tau,
        "Pearson's r": float(np.corrcoef(tokens, classes)[0, 1]),
        "pair accuracy": float(50 + 50 * surplus / (pairs - tied)),
        "MAE by class medians": float(np.abs(tokens - medians[classes]).mean()),
    }


def _pairs(values: Sequence[int] | Ints) -> float:
    """Count the pairs of equal values; of a single number n, all pairs of n things."""
    counts = np.asarray(values) if len(values) == 1 else np.unique(values, return_counts=True)[1]
    return float((counts.astype(float) * (counts - 1) / 2).sum())


def _not_published() -> list[TableRow]:
    found = [
        _row("SSJF", "predictor: MAE of the regression", "full data set", "tokens", 65.0, "paper",
             note="published: 63 to 66, read from a figure"),
        _row("SSJF", "predictor: L1 error of the regression", "10,000 rows, all LLMs", "tokens",
             121.2, "third party", note="a user's report"),
    ]  # fmt: skip
    for name, published in (("five classes", 7.89), ("three classes", 7.75)):
        found.append(
            _row(
                "SSJF",
                "predictor: latency of a prediction",
                f"BERT-base, {name}, V100",
                "ms",
                published,
                "their code, run",
                missing=Absent.HARDWARE,
                about=About.COST,
                why="docs/guides/evaluating.md compares Lengthwise and BERT-base",
            )
        )
    return found


def _seqsch(data: Path | None) -> list[TableRow]:
    answers = sampled(data)
    stand_in = "" if answers.recorded else "stand-in lengths"
    longest = answers.samples.max(axis=1)
    noise = np.random.default_rng(42).normal(0, ERROR_SD, len(longest))
    noisy = np.clip(np.rint(longest + noise), 1, answers.cap)
    cold, warm = answers.samples[:, 0], answers.samples[:, -1]
    found = []
    for name, setting, published, got, kind, note, slack in _perceived(longest, noisy, cold, warm):
        for (what, unit), figure, value in zip(_WITHIN, published, got, strict=True):
            found.append(
                _row("SeqSch", f"{name}: {what}", setting, unit, figure, kind, reproduced=value,
                     tolerance=slack if answers.recorded else None,
                     note="; ".join(filter(None, (stand_in, note))))
            )  # fmt: skip
    tau = float(kendalltau(cold, warm).statistic)
    found.append(
        _row("SeqSch", "noise ceiling: tau-b", "one sample foretells another", "", _CEILING_TAU,
             "third party", reproduced=tau, tolerance=0.02 if answers.recorded else None,
             note=stand_in)
    )  # fmt: skip
    return found


_Three = tuple[float, float, float]


def _perceived(
    longest: Ints, noisy: NDArray[np.float64], cold: Ints, warm: Ints
) -> list[tuple[str, str, _Three, _Three, NumberSource, str, float | None]]:
    """Return name, setting, published figures, our figures, origin, note, and tolerance."""
    return [
        ("perceiver", "its tuned LLM, longest of four samples", _PERCEIVER, _errors(longest, noisy),
         "readme", "reproduced: the normal error that stands for it in the replays", None),
        ("noise ceiling", "one sample foretells another", _CEILING, _errors(cold, warm),
         "third party", "", 2.0),
    ]  # fmt: skip


def _errors(truth: Ints, guess: Ints | NDArray[np.float64]) -> _Three:
    """Return the mean error, tokens, and the shares within 50 and 100 tokens, %."""
    off = np.abs(truth - guess)
    return float(off.mean()), float(100 * (off <= 50).mean()), float(100 * (off <= 100).mean())
