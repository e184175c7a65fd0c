"""Fit a calibration to the last answers of a queue. Pure.

Called by `scheduling.snapshot`, which fits again when new answers have come.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lengthwise_queue.prediction.calibration import (
    MIN_SAMPLES,
    NARROWEST,
    Calibration,
    Calibrations,
    ShapeTerm,
)
from lengthwise_queue.prediction.candidates import by_candidate
from lengthwise_store.prediction_record import MeasuredAnswer, Shape

#: Answers for each knot of the map, and the most knots. The median of 48 answers whose lengths
#: spread by a factor of two either way is known to about 10 %.
_PER_KNOT, _MAX_KNOTS = 48, 5

#: The weight of "the prediction is right" beside the answers, as a number of answers.
_PRIOR = 16

#: The least share of a difference between two predictions that is kept, in log tokens. Above 0, so
#: that the map is strictly increasing and keeps every rank. A predictor that predicts nothing gets
#: this slope: its long and short predictions nearly meet, and `sjf` serves as `fcfs`.
MIN_SLOPE = 0.05

#: The fewest answers for which the prompt's shape counts; the weight of "the shape is of no use"
#: beside them; and the share of cut answers above which the lengths are too little known.
_MIN_SHAPED, _SHAPE_PRIOR, _MOST_CUT = 64, 20.0, 0.2

#: The least share of the errors' variance that the shape must explain, by two-fold
#: cross-validation: without this bound it cost tau-b 0.02 where the shape is of no use
#: (docs/research/experiments.md, "an LLM that the predictor does not know").
_LEAST_EXPLAINED = 0.05

#: The largest factor by which a half of the spread is widened; its inverse is the smallest.
_WIDEST = 8.0


def fit_all(answers: Sequence[MeasuredAnswer]) -> Calibrations:
    """Fit a calibration for each version of the predictor, and each candidate beside it."""
    groups: dict[str, list[MeasuredAnswer]] = {}
    for answer in by_candidate(answers):
        if answer.predictor:
            groups.setdefault(answer.predictor, []).append(answer)
    return Calibrations(by_predictor={tag: fit(group) for tag, group in groups.items()})


def fit(answers: Sequence[MeasuredAnswer]) -> Calibration:
    """Fit a calibration to answers of one LLM, predicted by one predictor.

    Of an answer that was cut at its cap only a lower bound is known. The quantiles are those of
    Kaplan and Meier (1958), so such an answer never counts as short. A request for several answers
    is ignored: the length of one of them is not known.

    Args:
        answers: In any order; those without a prediction are ignored.

    Returns:
        One that changes nothing, where there are fewer than `MIN_SAMPLES`.
    """
    points: list[_Point] = []
    for answer in answers:
        if answer.raw is None or answer.count != 1 or answer.tokens < 1:
            continue
        low, middle, high = (math.log(q) for q in answer.raw)
        points.append(
            _Point(
                x=middle,
                y=math.log(answer.tokens),
                cut=answer.was_cut,
                below=max(middle - low, NARROWEST),
                above=max(high - middle, NARROWEST),
                shape=answer.shape,
            )
        )
    if len(points) < MIN_SAMPLES:
        return Calibration(samples=len(points))
    term = _shape_term(points)
    if term is not None:
        points = [replace(p, x=p.x + term.of(p.shape)) for p in points]
    centred = Calibration(samples=len(points), knots=_knots(points))
    rests = [(p.y - centred.centre(p.x), p) for p in points]
    down = _quantile([(rest / p.below, p.cut) for rest, p in rests], 0.1, unknown=-1.0)
    up = _quantile([(rest / p.above, p.cut) for rest, p in rests], 0.9, unknown=1.0)
    below, above = _widening(-down, len(points)), _widening(up, len(points))
    return Calibration(
        samples=len(points),
        knots=centred.knots,
        below=below,
        above=above,
        spread=statistics.median(below * p.below + above * p.above for p in points),
        factor=math.exp(sum(centred.centre(p.x) - p.x for p in points) / len(points)),
        shape=term,
    )


@dataclass(frozen=True, slots=True)
class _Point:
    x: float  #: Log of the predicted median, moved by the shape.
    y: float  #: Log of the real length, or of where it was cut.
    cut: bool
    below: float  #: Log p50 - log p10.
    above: float
    shape: Shape


def _shape_term(points: Sequence[_Point]) -> ShapeTerm | None:
    """Fit the error to the prediction, the prompt's length and its line breaks (ridge regression).

    The prediction is a part of the regression so that the shape does not get the credit for errors
    that the knots correct; its weight is not used.

    Returns:
        None: there are too few answers, or the shape explains too little.
    """
    whole = [p for p in points if not p.cut]
    if len(whole) < _MIN_SHAPED or len(whole) < (1 - _MOST_CUT) * len(points):
        return None
    halves = whole[::2], whole[1::2]
    explained = [
        _explained(_regress(fitted), tried) for fitted, tried in (halves, (halves[1], halves[0]))
    ]
    return _regress(whole) if statistics.fmean(explained) >= _LEAST_EXPLAINED else None


def _explained(term: ShapeTerm, points: Sequence[_Point]) -> float:
    """Compute the share of the errors' variance that a term explains, for answers not fitted."""
    errors = [p.y - p.x for p in points]
    left = [p.y - p.x - term.of(p.shape) for p in points]
    return 1 - statistics.pvariance(left) / max(statistics.pvariance(errors), 1e-9)


def _regress(whole: Sequence[_Point]) -> ShapeTerm:
    columns = [[p.x for p in whole], *([float(p.shape[i]) for p in whole] for i in (0, 1))]
    means = [statistics.fmean(column) for column in columns]
    widths = [max(statistics.pstdev(column), 1e-3) for column in columns]
    scaled = [
        [(value - mean) / width for value in column]
        for column, mean, width in zip(columns, means, widths, strict=True)
    ]
    errors = [p.y - p.x for p in whole]
    middle = statistics.median(errors)
    errors = [min(max(error - middle, -2.0), 2.0) for error in errors]
    weights = _solve(
        [
            [_dot(a, b) + (_SHAPE_PRIOR if i == j else 0.0) for j, b in enumerate(scaled)]
            for i, a in enumerate(scaled)
        ],
        [_dot(a, errors) for a in scaled],
    )
    return ShapeTerm(
        usual=(means[1], means[2]),
        weights=(weights[1] / widths[1], weights[2] / widths[2]),
    )


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Solve `matrix` x = `right` by elimination; `matrix` is small and positive definite."""
    n = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(n):
        for j in range(i + 1, n):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    found = [0.0] * n
    for i in reversed(range(n)):
        rest = sum(rows[i][j] * found[j] for j in range(i + 1, n))
        found[i] = (rows[i][n] - rest) / rows[i][i]
    return found


def _knots(points: Sequence[_Point]) -> tuple[tuple[float, float], ...]:
    """Compute the knots of the map: median errors in groups of similar predictions."""
    n = len(points)
    wrong = _quantile([(p.y - p.x, p.cut) for p in points], 0.5, unknown=0.0)
    whole = wrong * n / (n + _PRIOR)
    ordered = sorted(points, key=lambda p: p.x)
    count = min(max(n // _PER_KNOT, 1), _MAX_KNOTS)
    found: list[tuple[float, float, int]] = []
    for i in range(count):
        group = ordered[i * n // count : (i + 1) * n // count]
        size = len(group)
        own = _quantile([(p.y - p.x, p.cut) for p in group], 0.5, unknown=0.0)
        wrong = (size * own + _PRIOR * whole) / (size + _PRIOR)
        x = sum(p.x for p in group) / size
        if found and x - found[-1][0] < NARROWEST:  # nearly the same predictions: one knot
            x0, y0, size0 = found.pop()
            x, size = (x0 * size0 + x * size) / (size0 + size), size0 + size
            wrong = ((y0 - x0) * size0 + wrong * (size - size0)) / size
        found.append((x, x + wrong, size))
    return _increasing(found)


def _increasing(found: Sequence[tuple[float, float, int]]) -> tuple[tuple[float, float], ...]:
    """Make the knots increase by at least `MIN_SLOPE` (pool adjacent violators)."""
    # y - MIN_SLOPE * x must not decrease.
    blocks: list[tuple[float, int, int]] = []  # (mean, weight, knots)
    for x, y, size in found:
        mean, weight, knots = y - MIN_SLOPE * x, size, 1
        while blocks and blocks[-1][0] > mean:
            other, other_weight, other_knots = blocks.pop()
            mean = (mean * weight + other * other_weight) / (weight + other_weight)
            weight, knots = weight + other_weight, knots + other_knots
        blocks.append((mean, weight, knots))
    flat = [mean for mean, _, knots in blocks for _ in range(knots)]
    return tuple((x, low + MIN_SLOPE * x) for (x, _, _), low in zip(found, flat, strict=True))


def _quantile(values: Sequence[tuple[float, bool]], q: float, *, unknown: float) -> float:
    """Compute the q-quantile of values, some of which are marked as lower bounds.

    Args:
        values: (value, whether it is a lower bound), at least one.
        q: 0 to 1.
        unknown: Returned where so many are bounds that the quantile is not reached, if it is more
            than the largest value: a cut answer must not shorten a prediction.

    Source: E. L. Kaplan, P. Meier, Nonparametric estimation from incomplete observations (1958).
    """
    ordered = sorted(values)
    alive, left = 1.0, len(ordered)
    for value, cut in ordered:
        if not cut:
            alive *= 1 - 1 / left
            if 1 - alive >= q - 1e-9:
                return value
        left -= 1
    return max(ordered[-1][0], unknown)


def _widening(wanted: float, n: int) -> float:
    """Compute the factor of a half spread, drawn towards 1 while there are few answers."""
    bounded = min(max(wanted, 1 / _WIDEST), _WIDEST)
    return math.exp(math.log(bounded) * n / (n + _PRIOR))
