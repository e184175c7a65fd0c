"""The values that the store keeps of a prediction and returns with the answer. Values only.

The queue service learns its calibration from these values and judges the predictor by them
(lengthwise_queue/prediction). codec/prediction.py writes and reads them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

#: p10, p50 and p90 of a length, tokens.
Quantiles = tuple[float, float, float]

#: How long a prompt is, and how many lines it has: each is 10 * log(n + 1), rounded.
Shape = tuple[int, int]


#: Whose prediction a price rests on: the predictor's, or what was learned from all finished jobs of
#: the queue, or from its newest ones.
Served = Literal["static", "learned", "young"]


@dataclass(frozen=True, kw_only=True)
class LearnedPrediction:
    """What was learned about a job when it was submitted, beside the predictor's own prediction.

    All candidates are recorded before the answer comes, so that they can be judged by it.
    """

    learned: float | None = (
        None  #: Log tokens, the median of one answer; None: nothing was learned.
    )
    young: float | None = None  #: The same, learned from the newest jobs only; None: likewise.
    served: Served = "static"  #: Which one set the price.

    def of(self, candidate: Served) -> float | None:
        """Return a candidate's prediction, log tokens; None: static, or nothing was learned."""
        return {"static": None, "learned": self.learned, "young": self.young}[candidate]


@dataclass(frozen=True, kw_only=True)
class Basis:
    """The inputs of a price besides the raw prediction; kept until the answer arrives.

    The calibration is learned from it and the answer, so it must show whether an answer was cut.
    """

    calibrated: Quantiles | None = None  #: The quantiles that set the price; None: the raw ones.
    max_tokens: int | None = None  #: The request's cap on one answer; None: it has none.
    answers: int = 1  #: How many answers the request asks for.
    shape: Shape = (0, 0)
    learning: LearnedPrediction | None = None  #: None: the queue does not learn from this job.


#: The basis of a job that was priced without a prediction.
UNKNOWN_BASIS = Basis()


@dataclass(frozen=True, kw_only=True)
class MeasuredAnswer:
    """The length of a finished job's answer, beside what was predicted for it."""

    tokens: int  #: Tokens generated, all answers of the job together.
    priced: float | None  #: Tokens expected, all answers together; None: there was no prediction.
    raw: Quantiles | None = None  #: As predicted, for one answer.
    calibrated: Quantiles | None = None  #: The same after calibration.
    predictor: str = ""  #: Which predictor, as `predictor_tag`; "": unknown.
    max_tokens: int | None = None
    count: int = 1
    shape: Shape = (0, 0)
    at_s: float | None = None  #: When it finished, s since the epoch; None: not recorded.
    learning: LearnedPrediction | None = None

    @property
    def was_cut(self) -> bool:
        """Whether it ended at its cap: the real length is at least this."""
        return self.max_tokens is not None and self.tokens >= self.max_tokens * self.count


@dataclass(frozen=True, kw_only=True)
class FitRecord:
    """One fit, as the queue's counters name it.

    Attributes:
        id: Differs between any two fits.
        finished: Evidence of the queue, ever, when it was made.
        samples: Finished jobs that it rests on.
        took_ms: How long it took.
        made_ms: When, ms since the epoch.
    """

    id: str
    finished: int
    samples: int
    took_ms: float
    made_ms: float

    def to_text(self) -> str:
        """Return the record as text."""
        return f"{self.id} {self.finished} {self.samples} {self.took_ms:.1f} {self.made_ms:.0f}"

    @classmethod
    def of(cls, text: str) -> FitRecord | None:
        """Read what `to_text` wrote; None: it is another text."""
        try:
            name, finished, samples, took_ms, made_ms = text.split(" ")
            return cls(
                id=name,
                finished=int(finished),
                samples=int(samples),
                took_ms=float(took_ms),
                made_ms=float(made_ms),
            )
        except ValueError:
            return None


def predictor_tag(model_version: str) -> str:
    """Return a short name of a predictor's version, to tell its predictions from another's."""
    return f"{zlib.crc32(model_version.encode()):08x}"[:4]
