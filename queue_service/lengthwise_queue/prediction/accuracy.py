"""Measure how well predicted lengths order answers, and how well their quantiles hold. Pure.

Called by the metrics, the views and `quality`, which judges the predictor.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from lengthwise_store.prediction_record import MeasuredAnswer, Quantiles

#: The fewest pairs that are measured: with 45 (ten answers) a coin's score has a standard deviation
#: of 0.12 (simulated), with 1,000 of 0.05.
MIN_PAIRS = 45


def pair_accuracy(lengths: Iterable[tuple[float | None, int]]) -> float | None:
    """Compute the share of pairs of answers that were predicted in the right order.

    Args:
        lengths: The predicted and the real length of each answer, tokens. An answer without a
            prediction is ignored; two answers of one real length are no pair; two of one
            predicted length are half right.

    Returns:
        1: always right; 0.5: as a coin; 0: always wrong. None: fewer than `MIN_PAIRS` pairs.
    """
    return Ranking.of(lengths, apart=1.0).accuracy


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Pairs of answers, and how many of them were predicted in the right order."""

    right: float
    pairs: int
    possible: int  #: All pairs of answers with predictions, told apart or not.

    @property
    def accuracy(self) -> float | None:
        """`right / pairs`; None: fewer than `MIN_PAIRS`."""
        return self.right / self.pairs if self.pairs >= MIN_PAIRS else None

    @classmethod
    def of(cls, lengths: Iterable[tuple[float | None, int]], *, apart: float) -> Ranking:
        """Count the pairs that the predictor tells apart, and those in the right order.

        Args:
            lengths: As for `pair_accuracy`.
            apart: Two answers are a pair when one prediction is at least this many times the
                other, >= 1. At exactly 1, equal predictions are pairs as well, and half right.
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
    """Compute Kendall's tau-b of predicted and real lengths: 1 perfect, 0 a coin, -1 reversed.

    Args:
        lengths: As for `pair_accuracy`.

    Returns:
        None: fewer than `MIN_PAIRS` pairs, or all lengths of one side are equal.
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
    # `Ranking` counts equal predictions as half right. Here they are neither concordant nor
    # discordant. Both add 0.
    return (2 * ranking.right - ranking.pairs) / scale


def _tied_pairs(ordered: Sequence[float]) -> int:
    """Count the pairs of equal values in a sorted sequence."""
    total, run = 0, 1
    for previous, current in pairwise(ordered):
        run = run + 1 if current == previous else 1
        total += run - 1 if current == previous else 0
    return total


def coverage(answers: Iterable[tuple[Quantiles, MeasuredAnswer]]) -> float | None:
    """Compute the share of answers within their p10 to p90; 0.8 is right.

    Args:
        answers: The predicted quantiles of each answer, and the answer. Of an answer that was cut
            at its cap only a lower bound of the length is known: it counts as outside where the
            cut is above p90, and is ignored otherwise. A request for several answers is ignored.

    Returns:
        None: no answer counts.
    """
    inside = total = 0
    for (p10, _, p90), answer in answers:
        if answer.count != 1 or (answer.was_cut and answer.tokens <= p90):
            continue
        total += 1
        inside += p10 <= answer.tokens <= p90
    return inside / total if total else None
