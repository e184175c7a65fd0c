"""Stores the evidence of a queue, what was learned from it, and which replica learns next.

The scripts `submit` and `finish` write the evidence, in the steps that accept and end a job. The
rest is written here. Called by `lengthwise_queue.learning`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from lengthwise_store.codec.learning import StoredEvidence, read_evidence, read_view
from lengthwise_store.keys import LEARNING_KEY, QueueKeys
from lengthwise_store.prediction_record import FitRecord, Served
from lengthwise_store.redis.errors import read

#: Entries of the evidence that are read at once: about 0.5 MB.
_PAGE = 500


@dataclass(frozen=True, kw_only=True)
class LearningState:
    """How far a queue is with learning.

    Attributes:
        evidence: Finished jobs that were learned from, ever.
        fit: What was learned last; None: nothing.
        words: Names the way in which words are hashed; "": none was chosen yet.
        llm: The LLM that answers; "": none was noted yet.
    """

    evidence: int
    fit: FitRecord | None
    words: str
    llm: str


class LearningStore:
    """What the queues of one Redis learn from. Raises `StoreUnavailable` without Redis."""

    def __init__(self, client: Any) -> None:
        """`client`: an asyncio client of redis-py, with bytes for replies."""
        self._redis = client

    async def key(self) -> bytes:
        """Return the installation's secret for the hashes of words, made by the first call."""
        await read(self._redis.set(LEARNING_KEY, secrets.token_hex(32), nx=True))
        found: bytes = await read(self._redis.get(LEARNING_KEY))
        return bytes.fromhex(found.decode())

    # ------------------------------------------------------------------ evidence

    async def evidence_count(self, queue: str) -> int:
        """Return how many finished jobs were learned from, ever."""
        return int(await read(self._redis.hget(QueueKeys(queue).meta, "evidence")) or 0)

    async def evidence(self, queue: str, most: int) -> list[StoredEvidence]:
        """Return the newest `most` pieces of evidence, the oldest first, each once."""
        found: dict[str, StoredEvidence] = {}
        # In pages, so that Redis is not held; jobs that end meanwhile move the entries back.
        for first in range(0, most, _PAGE):
            last = min(first + _PAGE, most) - 1
            raws = await read(self._redis.lrange(QueueKeys(queue).evidence, first, last))
            for raw in raws:
                one = read_evidence(raw)
                if one is not None:
                    found.setdefault(one.job_id, one)
            if len(raws) < last - first + 1:
                break
        return list(reversed(found.values()))

    async def submission(self, queue: str, job_id: str) -> bytes | None:
        """Return the submission of a job that has not ended; None: it has none."""
        raw = await read(self._redis.hget(QueueKeys(queue).views, job_id))
        return None if raw is None else read_view(raw)

    async def state(self, queue: str) -> LearningState:
        """Return how far a queue is."""
        fields = ("evidence", "fit", "words", "llm")
        evidence, fit, words, llm = await read(
            self._redis.hmget(QueueKeys(queue).meta, list(fields))
        )
        return LearningState(
            evidence=int(evidence or 0),
            fit=None if fit is None else FitRecord.of(fit.decode()),
            words=(words or b"").decode(),
            llm=(llm or b"").decode(),
        )

    async def begin(self, queue: str, *, words: str, llm: str, judged_from: int) -> None:
        """Note which LLM answers from now on; its candidates are judged anew.

        Args:
            queue: Its name.
            words: As `LearningState.words`.
            llm: As `LearningState.llm`.
            judged_from: How many jobs had succeeded.
        """
        fields = {"words": words, "llm": llm, "judged_from": judged_from, "serving": "static"}
        await read(self._redis.hset(QueueKeys(queue).meta, mapping=fields))

    async def forget(self, queue: str) -> None:
        """Delete the evidence of a queue, and what was learned from it."""
        k = QueueKeys(queue)
        pipe = self._redis.pipeline(transaction=True)
        # Not `unlink`, which redis-py splits by slot for a Cluster and so cannot queue.
        for key in (k.views, k.evidence, k.learned):
            pipe.execute_command("UNLINK", key)
        pipe.hdel(k.meta, "evidence", "fit", "serving", "words", "llm", "judged_from")
        await read(pipe.execute())

    # ------------------------------------------------------------------ fits

    async def acquire(self, queue: str, replica: str, lease_ms: int) -> bool:
        """Become the replica that learns; False: another one does."""
        k = QueueKeys(queue)
        return bool(await read(self._redis.set(k.learner, replica, nx=True, px=lease_ms)))

    async def release(self, queue: str, replica: str) -> None:
        """Let another replica learn; two may learn at once if the lease has run out meanwhile."""
        k = QueueKeys(queue)
        if await read(self._redis.get(k.learner)) == replica.encode():
            await read(self._redis.delete(k.learner))

    async def publish(self, queue: str, fit: FitRecord, learned: bytes) -> None:
        """Store what was learned, in place of what was learned before."""
        k = QueueKeys(queue)
        pipe = self._redis.pipeline(transaction=True)
        pipe.set(k.learned, learned)
        pipe.hset(k.meta, "fit", fit.to_text())
        pipe.hincrby(k.meta, "fits", 1)
        await read(pipe.execute())

    async def learned(self, queue: str) -> tuple[FitRecord, bytes] | None:
        """Return what was learned, and by which fit; None: nothing."""
        k = QueueKeys(queue)
        pipe = self._redis.pipeline(transaction=True)
        pipe.hget(k.meta, "fit")
        pipe.get(k.learned)
        fit, learned = await read(pipe.execute())
        record = None if fit is None else FitRecord.of(fit.decode())
        return None if record is None or learned is None else (record, learned)

    async def serve(self, queue: str, candidate: Served) -> None:
        """Choose whose predictions the queue serves."""
        await read(self._redis.hset(QueueKeys(queue).meta, "serving", candidate))
