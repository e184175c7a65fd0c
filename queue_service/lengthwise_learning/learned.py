"""What was learned from finished jobs: it predicts log lengths, and travels as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lengthwise_learning.evidence import Evidence, Submission


@dataclass(frozen=True)
class Forecast:
    """Learned predictions for one job, log tokens.

    Attributes:
        learned: From all evidence.
        young: From the newest jobs only; None: they are too few.
    """

    learned: float
    young: float | None


class Learned:
    """A fit; the same bytes predict the same to the last digit in every replica of one build.

    Attributes:
        version: Name of the fit; another predictor has another one. It does not change when
            the fit is made again, so that a calibration of its predictions goes on.
        finished: Finished jobs of the queue, ever, when it was made.
        samples: Finished jobs that it rests on, of the queue and of its donors.
    """

    version: str
    finished: int
    samples: int

    def predict(self, submission: Submission) -> Forecast | None:
        """Predict the length of a job; None: its view is of another predictor.

        Takes at most 0.3 ms. `submission.learned` and `.young` are not read.
        """
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        """Return the fit as bytes, at most 2.5 MB."""
        raise NotImplementedError

    @classmethod
    def from_bytes(cls, packed: bytes) -> Learned:
        """Read what `to_bytes` returned.

        Raises:
            ValueError: These are other bytes, or of another version of this package.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class SimilarJob:
    """A finished job that is like another one.

    Attributes:
        similarity: 0 to 1; 1 is the same request.
        tokens: Length of its answer.
        censored: Whether it was cut.
    """

    similarity: float
    tokens: int
    censored: bool


def similar(
    submission: Submission, evidence: Sequence[Evidence], *, most: int = 5
) -> list[SimilarJob]:
    """Return the most similar finished jobs of the same tenant, the most similar first."""
    raise NotImplementedError
