"""Decides when to fit again, and which prediction a queue serves: static, learned or young."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from lengthwise_learning.evidence import Evidence

#: Finished jobs before the first fit.
FIRST_FIT = 32

#: Newest finished jobs that the predictions are judged by, and the fewest.
JUDGED, LEAST_JUDGED = 256, 64

#: The store keeps this many finished jobs of a queue.
MOST_EVIDENCE = 10_000


class Candidate(StrEnum):
    """Whose prediction a queue serves."""

    STATIC = "static"  #: The predictor's.
    LEARNED = "learned"  #: Learned from all evidence.
    YOUNG = "young"  #: Learned from the newest jobs only, after a change.


def due(last_fit: int, now: int) -> bool:
    """Decide whether to fit again.

    Args:
        last_fit: Finished jobs of the queue, ever, when the last fit was made; 0: none was.
        now: Finished jobs of the queue, ever.
    """
    raise NotImplementedError


def serves(evidence: Sequence[Evidence], before: Candidate) -> Candidate:
    """Choose whose prediction the queue serves, by pairs of finished jobs.

    Args:
        evidence: Finished jobs of the queue, the oldest first; only the newest `JUDGED` count.
        before: Whose prediction it serves now.
    """
    raise NotImplementedError


def pair_accuracy(predicted: Sequence[float | None], evidence: Sequence[Evidence]) -> float | None:
    """Compute the share of pairs, whose lengths differ clearly, that are predicted in order.

    Args:
        predicted: log tokens of each job; None: the job makes no pair.
        evidence: As many finished jobs.

    Returns:
        0 to 1; None: too few pairs.
    """
    raise NotImplementedError
