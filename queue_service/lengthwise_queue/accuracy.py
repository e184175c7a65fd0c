"""How well the predicted lengths put answers in order. Pure.

Called by the metrics; whoever decides whether predictions are worth using asks here as well.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from itertools import groupby

#: Fewer pairs than this say nothing: with 45 (ten answers) a coin's score spreads by 0.12 (one
#: standard deviation, simulated), with 1,000 by 0.05.
MIN_PAIRS = 45


def pair_accuracy(lengths: Iterable[tuple[float | None, int]]) -> float | None:
    """The share of pairs of answers whose predictions name the longer one.

    Args:
        lengths: Of each answer the predicted length, tokens, and the real one, tokens. An answer
            without a prediction counts for nothing; two of one real length are no pair; two of
            one predicted length are half right.

    Returns:
        1: always right, 0.5: as a coin, 0: always wrong. None: fewer than `MIN_PAIRS` pairs.
    """
    known = sorted((predicted, actual) for predicted, actual in lengths if predicted is not None)
    before: list[int] = []  # real lengths of the answers that were predicted shorter, sorted
    right = pairs = 0.0
    for _, group in groupby(known, key=lambda pair: pair[0]):
        actuals = [actual for _, actual in group]
        for at, actual in enumerate(actuals):
            shorter, equal = bisect_left(before, actual), bisect_right(before, actual)
            right += shorter
            pairs += shorter + len(before) - equal
            tied = sum(1 for other in actuals[:at] if other != actual)
            right += tied / 2
            pairs += tied
        for actual in actuals:
            insort(before, actual)
    return right / pairs if pairs >= MIN_PAIRS else None
