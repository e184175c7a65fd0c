"""Find the finished jobs that are most like one, for `explain`: of its own tenant, and no other."""

from __future__ import annotations

import asyncio

from lengthwise_learning.evidence import Submission
from lengthwise_learning.similar import SimilarJob, similar
from lengthwise_queue.learning.evidence_cache import unpacked
from lengthwise_store.codec.learning import StoredEvidence
from lengthwise_store.jobs import Job
from lengthwise_store.learning.store import LearningStore

#: The newest finished jobs of a queue among which similar ones are looked for: 0.3 MB.
_LOOKED_AT = 300


async def similar_jobs(store: LearningStore, job: Job) -> list[SimilarJob]:
    """Return the most similar finished jobs of the job's tenant, the most similar first.

    Nothing is found for a job that nothing is learned from, or that finished long ago.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    if job.basis.learning is None:
        return []
    stored = await store.evidence(job.queue, _LOOKED_AT)
    packed = await store.submission(job.queue, job.id)
    if packed is None:
        packed = next((one.submission for one in stored if one.job_id == job.id), None)
    if packed is None:
        return []
    others = [one for one in stored if one.job_id != job.id]
    return await asyncio.to_thread(_similar, packed, others)


def _similar(packed: bytes, stored: list[StoredEvidence]) -> list[SimilarJob]:
    try:
        submission = Submission.unpack(packed)
    except ValueError:
        return []  # of another release
    evidence = unpacked(stored)
    # The same text under another system prompt is another question.
    alike = [e for e in evidence if e.submission.application == submission.application]
    return similar(submission, alike or evidence)
