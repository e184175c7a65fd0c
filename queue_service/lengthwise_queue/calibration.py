"""Corrects predicted lengths by what the last answers really were, LLM by LLM. Pure.

Called by `queue_book`, which fits anew when answers have come, and through `pricing.forecast` by
whoever prices a job. A fit is a function of the last answers in Redis and of nothing else: so all
replicas have the same one, it survives every restart, and its memory is bounded. A queue is one
LLM, and predictions of different predictor versions are fitted apart, so that a new model does not
inherit the old one's faults (docs/decisions/0050-calibration.md).
"""

from __future__ import annotations

import math
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lengthwise_contract.api import Prediction
from lengthwise_queue.jobs import Answer, Quantiles

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

#: Bounds of the factor by which a half of the spread is widened.
_WIDEST = 8.0

#: The narrowest half of a spread that is believed, log tokens: 5 %.
_NARROWEST = 0.05


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A strictly increasing map of log tokens, and a factor for each side of the spread."""

    samples: int = 0  #: Answers that it rests on.
    #: Log of the predicted median -> log of the calibrated one, both increasing; linear between.
    knots: tuple[tuple[float, float], ...] = ()
    below: float = 1.0  #: Of the distance from p10 to p50, in log tokens.
    above: float = 1.0  #: Of that from p50 to p90.
    factor: float = 1.0  #: Calibrated over predicted median, geometric mean over the answers.

    def centre(self, log_tokens: float) -> float:
        """The calibrated log median for a predicted one; outside the knots it goes on straight."""
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

    def quantiles(self, raw: Quantiles) -> Quantiles:
        """The calibrated p10, p50 and p90, tokens, in order and within reason."""
        if self.samples < MIN_SAMPLES:
            return raw
        low, middle, high = (math.log(q) for q in raw)
        centre = self.centre(middle)
        ends = (
            centre - self.below * max(middle - low, _NARROWEST),
            centre,
            centre + self.above * max(high - middle, _NARROWEST),
        )
        p10, p50, p90 = (math.exp(min(max(x, _RANGE[0]), _RANGE[1])) for x in ends)
        return p10, p50, p90

    def apply(self, prediction: Prediction) -> Prediction:
        """The same prediction, corrected; its rank score is as it was."""
        if self.samples < MIN_SAMPLES:
            return prediction
        raw = (prediction.p10_tokens, prediction.p50_tokens, prediction.p90_tokens)
        p10, p50, p90 = self.quantiles(raw)
        mean = min(prediction.mean_tokens * (p50 / prediction.p50_tokens), math.exp(_RANGE[1]))
        return prediction.model_copy(
            update={"p10_tokens": p10, "p50_tokens": p50, "p90_tokens": p90, "mean_tokens": mean}
        )


def predictor_tag(model_version: str) -> str:
    """A short name of a predictor's version, to tell its predictions from another's."""
    return f"{zlib.crc32(model_version.encode()):08x}"[:4]


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
            )
        )
    if len(points) < MIN_SAMPLES:
        return Calibration(samples=len(points))
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
    )


@dataclass(frozen=True, slots=True)
class _Point:
    x: float  #: Log of the predicted median.
    y: float  #: Log of the real length, or of where it was cut.
    cut: bool
    below: float  #: Log p50 - log p10.
    above: float


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
