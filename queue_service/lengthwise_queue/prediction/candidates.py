"""The candidates of one prediction: the predictor's, and those that were learned. Pure.

Each has its own calibration and its own accuracy, over all answers for which it was made, whichever
of them was served. So a candidate that is promoted stands on the same scale as the one before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import get_args

from lengthwise_store.prediction_record import (
    LearnedPrediction,
    MeasuredAnswer,
    Quantiles,
    Served,
)

CANDIDATES: tuple[Served, ...] = get_args(Served)

#: Bounds of a quantile, tokens.
_LEAST, _MOST = 1e-3, 1.2e6


def tag_of(predictor: str, candidate: Served) -> str:
    """Return the tag under which a candidate's calibration and accuracy are kept.

    Args:
        predictor: The `predictor_tag` of the predictor.
        candidate: Which candidate.
    """
    return predictor if candidate == "static" or not predictor else f"{predictor}/{candidate}"


def moved(raw: Quantiles, log_tokens: float | None) -> Quantiles:
    """Move the predictor's quantiles to another median, with the same spread in logs.

    Args:
        raw: The predictor's p10, p50 and p90, tokens.
        log_tokens: The median, log tokens; None: the predictor's own.
    """
    if log_tokens is None:
        return raw
    factor = math.exp(log_tokens) / raw[1]
    p10, p50, p90 = (min(max(q * factor, _LEAST), _MOST) for q in raw)
    return p10, p50, p90


def served_raw(answer: MeasuredAnswer) -> Quantiles | None:
    """Return the quantiles of the candidate that set an answer's price, before calibration."""
    learning = answer.learning
    if answer.raw is None or learning is None:
        return answer.raw
    return moved(answer.raw, learning.of(learning.served))


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
