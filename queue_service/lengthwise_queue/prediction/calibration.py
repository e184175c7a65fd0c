"""Corrects predicted lengths by what the last answers really were, LLM by LLM. Pure.

Called by `queue_book`, which fits anew when answers have come, and through `pricing.forecast` by
whoever prices a job. A fit is a function of the last answers in Redis and of nothing else: so all
replicas have the same one, it survives every restart, and its memory is bounded. A queue is one
LLM, and predictions of different predictor versions are fitted apart, so that a new model does not
inherit the old one's faults (docs/decisions/0050-calibration.md).
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lengthwise_contract.prediction import Prediction
from lengthwise_store.jobs import Answer, Quantiles, Shape

#: Answers below which nothing is corrected.
MIN_SAMPLES = 16

#: Answers for each knot of the map, and most knots. The median of 48 answers whose lengths spread
#: by a factor of two either way is known to 10 % or so.
_PER_KNOT, _MAX_KNOTS = 48, 5

#: Weight of "the prediction is right" beside the answers, as if it were so many answers more.
_PRIOR = 16

#: How much of a difference between two predictions survives at the least, in log tokens: above 0,
#: so that the map is strictly monotone and keeps every rank. A predictor that knows nothing comes
#: down to this: its long and short predictions nearly meet, and `sjf` becomes `fcfs` by itself.
MIN_SLOPE = 0.05

#: Log tokens beyond which nothing is taken: 1 token and about a million.
_RANGE = (0.0, 14.0)

#: Answers below which the prompt's shape counts for nothing, and the weight of "it says nothing"
#: beside them; and the share of cut answers above which lengths are too little known for it.
_MIN_SHAPED, _SHAPE_PRIOR, _MOST_CUT = 64, 20.0, 0.2

#: Least share of the errors' variance that the shape must take away, by two-fold cross-validation:
#: without this bound it cost tau-b 0.02 where it has nothing to say (docs/research/experiments.md,
#: "an LLM nobody has seen").
_LEAST_EXPLAINED = 0.05

#: Most that the shape may move a prediction, log tokens: a factor of 3 either way.
_MOST_MOVED = 1.1

#: Bounds of the factor by which a half of the spread is widened.
_WIDEST = 8.0

#: The narrowest half of a spread that is believed, log tokens: 5 %.
_NARROWEST = 0.05


def shape_of(text: str) -> Shape:
    """The shape of a prompt."""
    return round(10 * math.log1p(len(text))), round(10 * math.log1p(text.count("\n")))


@dataclass(frozen=True, kw_only=True)
class ShapeTerm:
    """What a prompt's length and lines say that the predictor did not know of this LLM.

    It answers one LLM's long prompts with few words and another's with many, and predicts an LLM
    that it does not know as the mean of those it does.
    """

    usual: tuple[float, float]
    weights: tuple[float, float]

    def of(self, shape: Shape) -> float:
        """By how much to move a prediction, log tokens."""
        moved = sum(
            weight * (one - usual)
            for weight, one, usual in zip(self.weights, shape, self.usual, strict=True)
        )
        return min(max(moved, -_MOST_MOVED), _MOST_MOVED)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the prompt's shape adds, a strictly increasing map of log tokens, and two spreads.

    Two prompts of one shape keep their order; those of different shapes may change it.
    """

    samples: int = 0  #: Answers that it rests on.
    #: Log of the predicted median -> log of the calibrated one, both increasing; linear between.
    knots: tuple[tuple[float, float], ...] = ()
    below: float = 1.0  #: Of the distance from p10 to p50, in log tokens.
    above: float = 1.0  #: Of that from p50 to p90.
    factor: float = 1.0  #: Calibrated over predicted median, geometric mean over the answers.
    shape: ShapeTerm | None = None

    def moved(self, log_tokens: float, shape: Shape) -> float:
        """The predicted log median, moved by what the prompt's shape says of this LLM."""
        return log_tokens if self.shape is None else log_tokens + self.shape.of(shape)

    def centre(self, log_tokens: float) -> float:
        """The calibrated log median for a moved one; outside the knots it goes on straight."""
        if not self.knots:
            return log_tokens
        if len(self.knots) == 1:
            x, y = self.knots[0]
            return y + (log_tokens - x)
        at = bisect_right(self.knots, log_tokens, key=lambda knot: knot[0])
        left = min(max(at - 1, 0), len(self.knots) - 2)
        (x0, y0), (x1, y1) = self.knots[left], self.knots[left + 1]
        slope = (y1 - y0) / (x1 - x0)
        if at == 0:
            return y0 + min(slope, 1.0) * (log_tokens - x0)
        if at == len(self.knots):
            return y1 + min(slope, 1.0) * (log_tokens - x1)
        return y0 + slope * (log_tokens - x0)

    def quantiles(self, raw: Quantiles, shape: Shape = (0, 0)) -> Quantiles:
        """The calibrated p10, p50 and p90, tokens, in order and within reason."""
        if self.samples < MIN_SAMPLES:
            return raw
        low, middle, high = (math.log(q) for q in raw)
        centre = self.centre(self.moved(middle, shape))
        ends = (
            centre - self.below * max(middle - low, _NARROWEST),
            centre,
            centre + self.above * max(high - middle, _NARROWEST),
        )
        p10, p50, p90 = (math.exp(min(max(x, _RANGE[0]), _RANGE[1])) for x in ends)
        return p10, p50, p90

    def apply(self, prediction: Prediction, shape: Shape = (0, 0)) -> Prediction:
        """The same prediction, corrected; its rank score is as it was."""
        if self.samples < MIN_SAMPLES:
            return prediction
        raw = (prediction.p10_tokens, prediction.p50_tokens, prediction.p90_tokens)
        p10, p50, p90 = self.quantiles(raw, shape)
        mean = min(prediction.mean_tokens * (p50 / prediction.p50_tokens), math.exp(_RANGE[1]))
        return prediction.model_copy(
            update={"p10_tokens": p10, "p50_tokens": p50, "p90_tokens": p90, "mean_tokens": mean}
        )


#: Changes nothing.
IDENTITY = Calibration()


@dataclass(frozen=True, kw_only=True)
class Calibrations:
    """Those of one queue: one for each predictor version among its last answers."""

    by_predictor: Mapping[str, Calibration] = field(default_factory=dict)

    def of(self, tag: str) -> Calibration:
        """That of a predictor, by `predictor_tag`; the identity for one unheard of."""
        return self.by_predictor.get(tag, IDENTITY)


def fit_all(answers: Sequence[Answer]) -> Calibrations:
    """A calibration for each predictor version that the answers were predicted by."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.predictor:
            groups.setdefault(answer.predictor, []).append(answer)
    return Calibrations(by_predictor={tag: fit(group) for tag, group in groups.items()})


def fit(answers: Sequence[Answer]) -> Calibration:
    """Learn the map from answers of one LLM, predicted by one predictor.

    An answer that was cut at its cap tells that the length is at least that; the quantiles are
    Kaplan and Meier's (1958), so it never counts as short. A request for several answers tells
    nothing of one.

    Args:
        answers: In any order; those without a prediction are passed over.

    Returns:
        The identity, where there are fewer than `MIN_SAMPLES`.
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
                below=max(middle - low, _NARROWEST),
                above=max(high - middle, _NARROWEST),
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
    return Calibration(
        samples=len(points),
        knots=centred.knots,
        below=_widening(-down, len(points)),
        above=_widening(up, len(points)),
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
    """A ridge regression of the error on prediction, prompt length and lines; the last two of it.

    The prediction stands in it so that the other two are not credited with what the knots mend.
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
    """The share of the errors' variance that a term takes away, of answers it was not fitted on."""
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
    """X of a small positive definite `matrix` x = `right`, by elimination."""
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
    """Medians of what the predictions were wrong by, in groups of like predictions."""
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
        if found and x - found[-1][0] < _NARROWEST:  # the same predictions: one knot
            x0, y0, size0 = found.pop()
            x, size = (x0 * size0 + x * size) / (size0 + size), size0 + size
            wrong = ((y0 - x0) * size0 + wrong * (size - size0)) / size
        found.append((x, x + wrong, size))
    return _increasing(found)


def _increasing(found: Sequence[tuple[float, float, int]]) -> tuple[tuple[float, float], ...]:
    """The nearest increasing values (pool adjacent violators), then a least slope."""
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
    """The q-quantile of values of which some, marked, are only known to be at least so much.

    Args:
        values: At least one.
        q: 0 to 1.
        unknown: What is believed where too many are cut for it to be reached, if that is more
            than the largest value: a cut must not pull a prediction down.

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
    """The factor of a half spread, drawn towards 1 while there are few answers."""
    bounded = min(max(wanted, 1 / _WIDEST), _WIDEST)
    return math.exp(math.log(bounded) * n / (n + _PRIOR))
