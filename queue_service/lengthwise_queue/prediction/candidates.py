"""The candidates of one prediction: the predictor's, and those that were learned. Pure.

Each has its own calibration and its own accuracy, over all answers for which it was made, whichever
of them was served. So a candidate that is promoted stands on the same scale as the one before.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import get_args

from lengthwise_store.prediction_record import (
    LearnedPrediction,
    MeasuredAnswer,
    Quantiles,
    Served,
)

CANDIDATES: tuple[Served, ...] = get_args(Served)

#: Bounds of a median, tokens.
_LEAST, _MOST = 1e-3, 1.2e6

#: p90 over p50, and p50 over p10, of a learned prediction before its calibration.
_USUAL_SPREAD = math.exp(0.6)


#: Log medians that spread by less than this are all equal.
_LEAST_SPREAD = 1e-6


def tag_of(predictor: str, candidate: Served) -> str:
    """Return the tag under which a candidate's calibration and accuracy are kept.

    Args:
        predictor: The `predictor_tag` of the predictor.
        candidate: Which candidate.
    """
    return predictor if candidate == "static" or not predictor else f"{predictor}/{candidate}"


def moved(raw: Quantiles, log_tokens: float | None) -> Quantiles:
    """Return the quantiles of a learned median: p10 and p90 are at the usual distance from it.

    The calibration scales that distance. The predictor's own of each job cost 0.01 to 0.02 of tau-b
    in the expected length (docs/decisions/0082-a-steeper-step.md).

    Args:
        raw: The predictor's p10, p50 and p90, tokens.
        log_tokens: The median, log tokens; None: the predictor's own.
    """
    if log_tokens is None:
        return raw
    p50 = min(max(math.exp(log_tokens), _LEAST), _MOST)
    return p50 / _USUAL_SPREAD, p50, p50 * _USUAL_SPREAD


def served_raw(answer: MeasuredAnswer) -> Quantiles | None:
    """Return the quantiles of the candidate that set an answer's price, before calibration."""
    learning = answer.learning
    if answer.raw is None or learning is None:
        return answer.raw
    return moved(answer.raw, learning.of(learning.served))


def served_on_one_scale(answers: Sequence[MeasuredAnswer]) -> list[Quantiles | None]:
    """Return `served_raw` of each answer, on the predictor's scale where several were served.

    Before calibration two candidates may differ by any factor. Answers of both, compared as they
    are, would look badly ordered just after a promotion, though the calibrated prices were not.
    So the logs of each candidate get the mean and the spread that the predictor's have over the
    same answers.
    """
    served = [_served(answer) for answer in answers]
    if len(set(served)) < 2:
        return [served_raw(answer) for answer in answers]
    maps = {one: _to_predictor(answers, one) for one in set(served) - {"static"}}
    found = []
    for answer, one in zip(answers, served, strict=True):
        raw = served_raw(answer)
        if raw is not None and one != "static":
            shift, slope = maps[one]
            p10, p50, p90 = raw
            factor = math.exp(shift + (slope - 1) * math.log(p50))
            raw = p10 * factor, p50 * factor, p90 * factor
        found.append(raw)
    return found


def _served(answer: MeasuredAnswer) -> Served:
    learning = answer.learning
    if answer.raw is None or learning is None or learning.of(learning.served) is None:
        return "static"
    return learning.served


def _to_predictor(answers: Sequence[MeasuredAnswer], candidate: Served) -> tuple[float, float]:
    """Return (shift, slope) that map a candidate's log medians to the predictor's."""
    pairs = [
        (math.log(answer.raw[1]), log_tokens)
        for answer in answers
        if answer.raw is not None and answer.learning is not None
        if (log_tokens := answer.learning.of(candidate)) is not None
    ]
    static, learned = zip(*pairs, strict=True)
    slope = 1.0
    if statistics.pstdev(learned) > _LEAST_SPREAD:
        slope = statistics.pstdev(static) / statistics.pstdev(learned)
    return statistics.fmean(static) - slope * statistics.fmean(learned), slope


def by_candidate(answers: Iterable[MeasuredAnswer]) -> Iterator[MeasuredAnswer]:
    """Return each answer once for each of its candidates, as if that one alone had been made."""
    for answer in answers:
        yield answer
        learning = answer.learning
        if answer.raw is None or learning is None:
            continue
        for candidate in CANDIDATES:
            log_tokens = learning.of(candidate)
            if log_tokens is not None:
                yield replace(
                    answer,
                    raw=moved(answer.raw, log_tokens),
                    predictor=tag_of(answer.predictor, candidate),
                    learning=None,
                )


def of_candidate(answers: Iterable[MeasuredAnswer], candidate: Served) -> list[MeasuredAnswer]:
    """Return the answers as one candidate predicted them, without those that it did not."""
    found = []
    for answer in answers:
        if answer.raw is None:
            continue
        learning = answer.learning or LearnedPrediction()
        log_tokens = learning.of(candidate)
        if candidate == "static" or log_tokens is not None:
            found.append(replace(answer, raw=moved(answer.raw, log_tokens), learning=None))
    return found
