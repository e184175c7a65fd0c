"""Judge the candidates by the last answers. Pure, so that all replicas judge alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lengthwise_learning.evidence import Evidence, Submission
from lengthwise_learning.promotion import Candidate, pair_accuracy, serves
from lengthwise_learning.view import View
from lengthwise_queue.prediction.accuracy import tau_b
from lengthwise_queue.prediction.candidates import of_candidate
from lengthwise_queue.prediction.quality import expectations
from lengthwise_store.prediction_record import MeasuredAnswer, Served

#: The judgement needs no view.
_NO_VIEW = View(0, (0,) * 6, np.zeros(0, np.float32), np.zeros(0, np.uint16))


def evidence_of(answers: Sequence[MeasuredAnswer]) -> list[Evidence]:
    """Return the answers with what every candidate predicted for them, the oldest first.

    Args:
        answers: The last ones, the newest first.
    """
    found = []
    for answer in reversed(answers):
        if answer.raw is None or answer.learning is None or answer.count != 1:
            continue
        submission = Submission(
            view=_NO_VIEW,
            llm="",
            static=float(np.log(answer.raw[1])),
            learned=answer.learning.learned,
            young=answer.learning.young,
        )
        found.append(Evidence(submission=submission, tokens=answer.tokens, censored=answer.was_cut))
    return found


def to_serve(answers: Sequence[MeasuredAnswer], before: Served) -> Served:
    """Choose the candidate that a queue serves.

    Args:
        answers: The last ones of the LLM that answers now, the newest first.
        before: The candidate that it serves now.
    """
    return serves(evidence_of(answers), Candidate(before)).value


def accuracies(answers: Sequence[MeasuredAnswer]) -> dict[Served, float | None]:
    """Compute the pair accuracy of each candidate, by which they are judged; None: too few pairs.

    Only the answers count for which something was learned, so that the candidates are compared on
    the same answers.
    """
    known = [e for e in evidence_of(answers) if e.submission.learned is not None]
    return {
        "static": pair_accuracy([e.submission.static for e in known], known),
        "learned": pair_accuracy([e.submission.learned for e in known], known),
        "young": pair_accuracy([e.submission.young for e in known], known),
    }


def taus(answers: Sequence[MeasuredAnswer]) -> dict[Served, float | None]:
    """Compute tau-b of each candidate, over the same answers."""
    known = [a for a in answers if a.learning is not None and a.learning.learned is not None]
    each: tuple[Served, ...] = ("static", "learned", "young")
    return {one: tau_b(expectations(of_candidate(known, one))) for one in each}


@dataclass(frozen=True, kw_only=True)
class LearningScores:
    """The order of each candidate over the last answers; None: too few answers."""

    accuracies: Mapping[Served, float | None]
    taus: Mapping[Served, float | None]
    tau_served: float | None


def scores(answers: Sequence[MeasuredAnswer]) -> LearningScores:
    """Compute the order of each candidate, and of what was served, over the same answers."""
    known = [a for a in answers if a.learning is not None and a.learning.learned is not None]
    return LearningScores(
        accuracies=accuracies(answers), taus=taus(answers), tau_served=tau_b(expectations(known))
    )
