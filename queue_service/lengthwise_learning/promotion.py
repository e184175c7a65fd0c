"""Decides when to fit again, and which prediction a queue serves: static, learned or young."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

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


#: Two answers are a pair if one is at least this many times as long as the other.
_APART = 1.25

#: The fewest pairs.
_LEAST_PAIRS = 45

#: Learned is served from this far below static on, and until it is that far below.
_PROMOTED, _DEMOTED = -0.01, -0.03

#: Young replaces learned when it is this far above it, and leaves when it is no longer above.
_YOUNGER = 0.02

#: A fit is made again when so many jobs have finished since the last: this share of all and some,
#: but at most `_MOST_NEW`.
_GROWTH, _SOME, _MOST_NEW = 0.15, 8, 200


def due(last_fit: int, now: int) -> bool:
    """Decide whether to fit again.

    Args:
        last_fit: Finished jobs of the queue, ever, when the last fit was made; 0: none was.
        now: Finished jobs of the queue, ever.
    """
    if last_fit == 0:
        return now >= FIRST_FIT
    return now >= last_fit + min(_GROWTH * last_fit + _SOME, _MOST_NEW)


def serves(evidence: Sequence[Evidence], before: Candidate) -> Candidate:
    """Choose whose prediction the queue serves, by pairs of finished jobs.

    Args:
        evidence: Finished jobs of the queue, the oldest first; only the newest `JUDGED` count.
        before: Whose prediction it serves now.
    """
    newest = evidence[-JUDGED:]
    judged = [e for e in newest if e.submission.learned is not None]
    if len(judged) < LEAST_JUDGED:
        return Candidate.STATIC
    static = pair_accuracy([e.submission.static for e in judged], judged)
    learned = pair_accuracy([e.submission.learned for e in judged], judged)
    if static is None or learned is None:
        return Candidate.STATIC
    needed = _PROMOTED if before is Candidate.STATIC else _DEMOTED
    best = Candidate.LEARNED if learned >= static + needed else Candidate.STATIC
    both = [e for e in judged if e.submission.young is not None]
    if len(both) < LEAST_JUDGED:
        return best
    young = pair_accuracy([e.submission.young for e in both], both)
    against = max(
        pair_accuracy([e.submission.static for e in both], both) or 0.0,
        pair_accuracy([e.submission.learned for e in both], both) or 0.0,
    )
    gain = 0.0 if before is Candidate.YOUNG else _YOUNGER
    return Candidate.YOUNG if young is not None and young > against + gain else best


def pair_accuracy(predicted: Sequence[float | None], evidence: Sequence[Evidence]) -> float | None:
    """Compute the share of pairs, whose lengths differ clearly, that are predicted in order.

    Of a cut answer only a lower bound is known: it makes a pair with clearly shorter ones only.

    Args:
        predicted: log tokens of each job; None: the job makes no pair.
        evidence: As many finished jobs.

    Returns:
        0 to 1; None: too few pairs.
    """
    known = [(p, e) for p, e in zip(predicted, evidence, strict=True) if p is not None]
    if not known:
        return None
    guess = np.array([p for p, _ in known])
    length = np.array([e.tokens + 1.0 for _, e in known])
    whole = np.array([not e.censored for _, e in known])
    # (shorter, longer): the shorter answer must be whole, the longer one may be cut.
    pairs = (length[:, None] * _APART <= length) & whole[:, None]
    count = int(pairs.sum())
    if count < _LEAST_PAIRS:
        return None
    right = (guess[:, None] < guess) + 0.5 * (guess[:, None] == guess)
    return float(right[pairs].sum()) / count
