"""Keep the evidence of the queues that this replica learns for, so that only the new part is read.

Reading 10,000 finished jobs keeps Redis busy for as long as hundreds of jobs do.
"""

from __future__ import annotations

from collections import OrderedDict

from lengthwise_learning.evidence import Evidence, Submission
from lengthwise_learning.promotion import MOST_EVIDENCE
from lengthwise_store.codec.learning import StoredEvidence
from lengthwise_store.learning.store import LearningStore

#: Queues whose evidence is kept, at most 10 MB each; of more, those used last.
MOST_QUEUES = 16


class EvidenceCache:
    """The evidence of some queues, as Redis has it."""

    def __init__(self, store: LearningStore) -> None:
        self._store = store
        self._kept: OrderedDict[str, tuple[int, dict[str, StoredEvidence]]] = OrderedDict()

    async def read(self, queue: str) -> tuple[int, list[StoredEvidence]]:
        """Return how much evidence a queue has had, ever, and what it has, the oldest first.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        before, kept = self._kept.get(queue, (0, {}))
        count = await self._store.evidence_count(queue)
        if count < before:  # it was deleted
            before, kept = 0, {}
        if count > before:
            new = await self._store.evidence(queue, min(count - before, MOST_EVIDENCE))
            kept |= {one.job_id: one for one in new}
            for job_id in list(kept)[: max(0, len(kept) - MOST_EVIDENCE)]:
                del kept[job_id]
        self._kept[queue] = count, kept
        self._kept.move_to_end(queue)
        while len(self._kept) > MOST_QUEUES:
            self._kept.popitem(last=False)
        return count, list(kept.values())

    def forget(self, queue: str) -> None:
        """Forget the evidence of a queue."""
        self._kept.pop(queue, None)


def unpacked(stored: list[StoredEvidence]) -> list[Evidence]:
    """Read evidence as the learner takes it; what cannot be read is left out."""
    found = []
    for one in stored:
        try:
            submission = Submission.unpack(one.submission)
        except ValueError:
            continue  # of another release
        found.append(Evidence(submission=submission, tokens=one.tokens, censored=one.censored))
    return found
