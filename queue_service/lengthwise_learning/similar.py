"""Finds the finished jobs that are most like one, for `explain`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lengthwise_contract.request_view import BUCKETS
from lengthwise_learning.evidence import Evidence, Submission
from lengthwise_learning.kernel import Points, matern, squared_lengths
from lengthwise_learning.words import Bags


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
    """Return the most similar finished jobs of the same tenant, the most similar first.

    Args:
        submission: The job.
        evidence: Finished jobs of its queue, the oldest first; the newest of the tenant count.
        most: Most jobs to return.
    """
    view = submission.view
    known = [
        e
        for e in evidence
        if e.submission.tenant == submission.tenant
        and (e.submission.view.basis, e.submission.view.widths) == (view.basis, view.widths)
    ]
    if not known:
        return []
    views = [*(e.submission.view for e in known), view]
    points = Points.of(views)
    bags = Bags.of(views)
    bags = bags.scaled(bags.idf())
    own = np.zeros(BUCKETS)
    last = bags.rows(len(known), len(views))
    own[last.word] = last.weight
    parts = [
        matern(one[-1:], one[:-1], squared_lengths(one[:-1]))[0]
        for one in (points.kernel, points.state)
    ]
    alike = (parts[0] + parts[1] + bags.times(own)[:-1]) / 3.0
    request = submission.request
    repeats = [request != "" and e.submission.request == request for e in known]
    alike = np.where(repeats, 1.0, np.minimum(alike, 0.999))
    # Of equally similar jobs the newest comes first.
    order = np.lexsort((-np.arange(len(known)), -alike))[:most]
    return [
        SimilarJob(round(float(alike[i]), 3), known[i].tokens, known[i].censored) for i in order
    ]
