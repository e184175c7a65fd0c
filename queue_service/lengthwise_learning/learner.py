"""Fits what is learned of a queue to its finished jobs, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

from lengthwise_learning.evidence import Evidence
from lengthwise_learning.learned import Learned


def fit(
    evidence: Sequence[Evidence], *, finished: int, donors: Sequence[Evidence] = ()
) -> Learned | None:
    """Fit to finished jobs; a pure function, under 1 s.

    Args:
        evidence: Finished jobs of the queue, the oldest first; the newest 10,000 count.
        finished: Finished jobs of the queue, ever.
        donors: Finished jobs of other queues of the installation, the oldest first; the newest
            1,000 count while the queue has few of its own.

    Returns:
        None: too few jobs to learn from (fewer than 32 with the donors).
    """
    raise NotImplementedError
