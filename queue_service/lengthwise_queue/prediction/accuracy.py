"""How well the predicted lengths put answers in order, and hold them between their quantiles. Pure.

Called by the metrics and the views; whoever decides whether predictions are worth using
(`rank_watch`) asks here as well.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from lengthwise_store.jobs import Answer, Quantiles

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
    return Ranking.of(lengths, apart=1.0).accuracy


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Pairs of answers, and how many of them were predicted in the right order."""

    right: float
    pairs: int
    possible: int  #: Pairs of answers with predictions, whatever these say.

    @property
    def accuracy(self) -> float | None:
        """`right / pairs`; None: fewer than `MIN_PAIRS`."""
        return self.right / self.pairs if self.pairs >= MIN_PAIRS else None

    @classmethod
    def of(cls, lengths: Iterable[tuple[float | None, int]], *, apart: float) -> Ranking:
        """Count pairs; of those, only the ones that the predictor claims to tell apart.

        Args:
            lengths: As for `pair_accuracy`.
            apart: Two predictions, tokens, are a pair when one is at least this many times the
                other, >= 1. At exactly 1 equal predictions are pairs as well, and half right.
        """
        known = sorted((predicted, actual) for predicted, actual in lengths if predicted)
        before: list[int] = []  # real lengths of the answers predicted far enough below, sorted
        right, pairs, next_in = 0.0, 0, 0
        for predicted, group in groupby(known, key=lambda pair: pair[0]):
            actuals = [actual for _, actual in group]
            while next_in < len(known) and (
                known[next_in][0] * apart <= predicted and known[next_in][0] < predicted
            ):
                insort(before, known[next_in][1])
                next_in += 1
            for at, actual in enumerate(actuals):
                shorter, equal = bisect_left(before, actual), bisect_right(before, actual)
                right += shorter
                pairs += shorter + len(before) - equal
                if apart == 1.0:
                    tied = sum(1 for other in actuals[:at] if other != actual)
                    right += tied / 2
                    pairs += tied
        return cls(right=right, pairs=pairs, possible=len(known) * (len(known) - 1) // 2)


def tau_b(lengths: Iterable[tuple[float | None, int]]) -> float | None:
    """Kendall's tau-b of predicted and real lengths: 1 perfect, 0 as a coin, -1 reversed.

    Args:
        lengths: As for `pair_accuracy`.

    Returns:
        None: fewer than `MIN_PAIRS` pairs, or one side is all the same.
    """
    known = [(predicted, actual) for predicted, actual in lengths if predicted]
    n = len(known)
    ranking = Ranking.of(known, apart=1.0)
    tied_predicted = _tied_pairs(sorted(predicted for predicted, _ in known))
    tied_actual = _tied_pairs(sorted(actual for _, actual in known))
    possible = n * (n - 1) // 2
    scale = math.sqrt((possible - tied_predicted) * (possible - tied_actual))
    if ranking.pairs < MIN_PAIRS or scale == 0:
        return None
    # Equal predictions are half right there, and neither concordant nor discordant here: both 0.
    return (2 * ranking.right - ranking.pairs) / scale


def _tied_pairs(ordered: Sequence[float]) -> int:
    """Pairs of equal neighbours in a sorted sequence."""
    total, run = 0, 1
    for previous, current in pairwise(ordered):
        run = run + 1 if current == previous else 1
        total += run - 1 if current == previous else 0
    return total


def coverage(answers: Iterable[tuple[Quantiles, Answer]]) -> float | None:
    """The share of answers within their p10 to p90; 0.8 is honest.

    Args:
        answers: What was said of each, and the answer. One that was cut at its cap is longer than
            what there is of it: it counts as outside where the cut is above p90, and else for
            nothing, because nobody knows. A request for several answers counts for nothing.

    Returns:
        None: there are none that count.
    """
    inside = total = 0
    for (p10, _, p90), answer in answers:
        if answer.count != 1 or (answer.was_cut and answer.tokens <= p90):
            continue
        total += 1
        inside += p10 <= answer.tokens <= p90
    return inside / total if total else None
