"""Correct predicted lengths by the last real ones, for one LLM. Pure.

`scheduling.pricing` applies a calibration to each prediction. `calibration_fit` makes one from the
last answers in Redis and from nothing else. So all replicas have the same one, it survives every
restart, and its memory is bounded. A queue is one LLM, and each version of the predictor is fitted
apart, so that a new model does not inherit the errors of the old one
(docs/decisions/0050-calibration.md).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from lengthwise_contract.prediction import Prediction
from lengthwise_store.prediction_record import Quantiles, Shape

#: With fewer answers than this, nothing is corrected.
MIN_SAMPLES = 16

#: The narrowest half of a spread, log tokens: 5 %.
NARROWEST = 0.05

#: Bounds of a calibrated quantile, log tokens: 1 token and about a million.
_RANGE = (0.0, 14.0)

#: The most that the shape may move a prediction, log tokens: a factor of 3 either way.
_MOST_MOVED = 1.1


def shape_of(text: str) -> Shape:
    """Compute the shape of a prompt: ten times the log of its length and of its line breaks."""
    return round(10 * math.log1p(len(text))), round(10 * math.log1p(text.count("\n")))


@dataclass(frozen=True, kw_only=True)
class ShapeTerm:
    """The correction of a prediction by the length and the line breaks of the prompt.

    One LLM answers long prompts with few words, another with many. A predictor that does not know
    the LLM predicts the mean of the LLMs that it knows.
    """

    usual: tuple[float, float]
    weights: tuple[float, float]

    def of(self, shape: Shape) -> float:
        """Compute how far a prediction is moved, log tokens."""
        moved = sum(
            weight * (one - usual)
            for weight, one, usual in zip(self.weights, shape, self.usual, strict=True)
        )
        return min(max(moved, -_MOST_MOVED), _MOST_MOVED)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A shape term, a strictly increasing map of log tokens, and two factors of the spread.

    Two prompts of one shape keep their order; prompts of different shapes may change theirs.
    """

    samples: int = 0  #: Answers that it rests on.
    #: Log of the predicted median -> log of the calibrated one, both increasing; linear between.
    knots: tuple[tuple[float, float], ...] = ()
    below: float = 1.0  #: Factor of the distance from p10 to p50, in log tokens.
    above: float = 1.0  #: Factor of the distance from p50 to p90, in log tokens.
    factor: float = 1.0  #: Calibrated / predicted median, geometric mean over the answers.
    shape: ShapeTerm | None = None
    spread: float = 0.0  #: Usual log of p90 over p10, after calibration; 0: unknown.

    def moved(self, log_tokens: float, shape: Shape) -> float:
        """Move a predicted log median by the shape of the prompt."""
        return log_tokens if self.shape is None else log_tokens + self.shape.of(shape)

    def centre(self, log_tokens: float) -> float:
        """Map a moved log median to the calibrated one; outside the knots the map is a line."""
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
        """Calibrate a p10, p50 and p90, tokens; the result is in order and bounded."""
        if self.samples < MIN_SAMPLES:
            return raw
        low, middle, high = (math.log(q) for q in raw)
        centre = self.centre(self.moved(middle, shape))
        ends = (
            centre - self.below * max(middle - low, NARROWEST),
            centre,
            centre + self.above * max(high - middle, NARROWEST),
        )
        p10, p50, p90 = (math.exp(min(max(x, _RANGE[0]), _RANGE[1])) for x in ends)
        return p10, p50, p90

    def apply(self, prediction: Prediction, shape: Shape = (0, 0)) -> Prediction:
        """Correct a prediction; its rank score does not change."""
        if self.samples < MIN_SAMPLES:
            return prediction
        raw = (prediction.p10_tokens, prediction.p50_tokens, prediction.p90_tokens)
        p10, p50, p90 = self.quantiles(raw, shape)
        mean = min(prediction.mean_tokens * (p50 / prediction.p50_tokens), math.exp(_RANGE[1]))
        return prediction.model_copy(
            update={"p10_tokens": p10, "p50_tokens": p50, "p90_tokens": p90, "mean_tokens": mean}
        )

    def for_price(self, prediction: Prediction) -> Prediction:
        """Return a calibrated prediction with the usual spread about its median.

        The spread that a predictor gives to each job says less of its expected length than the
        median does: with it, tau-b of the price was 0.016 lower on eight streams that the predictor
        was not trained on (docs/decisions/0082-a-steeper-step.md).
        """
        if self.samples < MIN_SAMPLES or self.spread == 0:
            return prediction
        half = math.exp(self.spread / 2)
        p50 = prediction.p50_tokens
        return prediction.model_copy(update={"p10_tokens": p50 / half, "p90_tokens": p50 * half})


#: Changes nothing.
IDENTITY = Calibration()


@dataclass(frozen=True, kw_only=True)
class Calibrations:
    """The calibrations of one queue, one for each version of the predictor."""

    by_predictor: Mapping[str, Calibration] = field(default_factory=dict)

    def of(self, tag: str) -> Calibration:
        """Return the calibration of a predictor, by `predictor_tag`; unknown: the identity."""
        return self.by_predictor.get(tag, IDENTITY)
