"""Learn from the finished jobs of every queue, and choose which predictions each queue serves.

Every replica runs this loop. The one that gets a queue's lease fits, in a thread, and publishes
what it learned; all read that. A replica that dies in a fit loses nothing: the evidence is in
Redis, and the next one fits when the lease has run out.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_learning.learned import Learned
from lengthwise_learning.learner import DONORS, fit
from lengthwise_learning.promotion import FIRST_FIT, due
from lengthwise_queue.background.periodic import repeat
from lengthwise_queue.errors import ModelNotFound
from lengthwise_queue.learning.evidence_cache import EvidenceCache, unpacked
from lengthwise_queue.learning.forecaster import Forecaster
from lengthwise_queue.prediction.judge import to_serve
from lengthwise_queue.scheduling.snapshot import QueueCache
from lengthwise_store.codec.learning import StoredEvidence
from lengthwise_store.learning.store import LearningState, LearningStore
from lengthwise_store.prediction_record import FitRecord
from lengthwise_store.queues import Queue
from lengthwise_store.store import JobStore

log = logging.getLogger(__name__)

#: The pause between two checks, s.
EVERY_S = 2.0

#: How long a fit may take before another replica begins one: 30 times the longest that was
#: measured.
LEASE_MS = 30_000

#: The candidates are judged again when so many more jobs have been learned from.
JUDGE_AFTER = 8

#: The jobs of other queues help as long as a queue has fewer of its own.
DONORS_UNTIL = 500

#: How long a queue whose fit failed, or had too little to learn from, is left alone, s.
PAUSE_S = 30.0


class Learner:
    """Learns for every queue periodically. Errors are logged and do not end the loop."""

    def __init__(
        self,
        jobs: JobStore,
        store: LearningStore,
        queue_cache: QueueCache,
        forecaster: Forecaster,
        *,
        on_fit: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Start nothing yet.

        Args:
            jobs: The queues.
            store: The evidence, and what is learned.
            queue_cache: The figures by which the candidates are judged.
            forecaster: Reads what was published.
            on_fit: Called with the duration of each fit of this replica, s.
        """
        self._jobs, self._store, self._queue_cache = jobs, store, queue_cache
        self._forecaster = forecaster
        self._on_fit = on_fit
        self._evidence = EvidenceCache(store)
        self._replica = uuid.uuid4().hex
        self._judged: dict[str, int] = {}
        self._paused_until_s: dict[str, float] = {}

    async def run(self) -> None:
        """Check every `EVERY_S`, until cancelled."""
        await repeat(self.check, every_s=EVERY_S, what="learning")

    async def check(self) -> None:
        """Check every queue once.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        queues = await self._jobs.queues()
        for queue in queues:
            await self._check(queue, queues)
        names = {queue.name for queue in queues}
        for known in (self._judged, self._paused_until_s):
            for name in known.keys() - names:
                del known[name]

    async def _check(self, queue: Queue, queues: Sequence[Queue]) -> None:
        state = await self._store.state(queue.name)
        if queue.settings.learning == "off":
            if state.evidence or state.fit is not None or state.words:
                await self._forget(queue.name)
            return
        words, llm = await self._identity(queue)
        if state.words not in ("", words):
            await self._forget(queue.name)
            state = await self._store.state(queue.name)
        if (state.words, state.llm) != (words, llm):
            await self._begin(queue.name, words, llm)
        if self._is_due(queue, state) or await self._may_borrow(queue, state, queues):
            await self._learn(queue, queues, words)
        await self._judge(queue.name, state)
        # So that the first jobs after a restart are predicted with what was learned before it.
        self._forecaster.fits.of(queue.name, (await self._store.state(queue.name)).fit)

    async def _identity(self, queue: Queue) -> tuple[str, str]:
        names = await self._forecaster.names()
        readable = await self._forecaster.word_key(queue.settings) is None
        words = "readable" if readable else names.words
        return words, names.llm(queue.name, queue.settings, None)

    async def _forget(self, name: str) -> None:
        log.info("what was learned is deleted", extra={"queue": name})
        self._evidence.forget(name)
        self._judged.pop(name, None)
        await self._store.forget(name)

    async def _begin(self, name: str, words: str, llm: str) -> None:
        stats = await self._jobs.stats(name)
        done = stats.counters.get("succeeded", 0)
        await self._store.begin(name, words=words, llm=llm, judged_from=done)

    # ------------------------------------------------------------------ fits

    def _is_due(self, queue: Queue, state: LearningState) -> bool:
        if time.monotonic() < self._paused_until_s.get(queue.name, 0.0):
            return False
        return due(0 if state.fit is None else state.fit.finished, state.evidence)

    async def _may_borrow(
        self, queue: Queue, state: LearningState, queues: Sequence[Queue]
    ) -> bool:
        """Return whether a queue without a fit can begin with the jobs of the other queues."""
        if state.fit is not None or time.monotonic() < self._paused_until_s.get(queue.name, 0.0):
            return False
        counts = [await self._store.evidence_count(one.name) for one in _donors(queue, queues)]
        if sum(counts) >= FIRST_FIT:
            return True
        self._pause(queue.name)
        return False

    def _pause(self, name: str) -> None:
        self._paused_until_s[name] = time.monotonic() + PAUSE_S

    async def _learn(self, queue: Queue, queues: Sequence[Queue], words: str) -> None:
        name = queue.name
        if not await self._store.acquire(name, self._replica, LEASE_MS):
            return
        try:
            finished, evidence = await self._evidence.read(name)
            donors: list[StoredEvidence] = []
            if len(evidence) < DONORS_UNTIL:
                donors = await self._borrowed(queue, queues, words)
            began_s = time.perf_counter()
            learned = await asyncio.to_thread(_fit, evidence, finished, donors)
            took_s = time.perf_counter() - began_s
            if learned is None:
                self._pause(name)
                return
            record = FitRecord(
                id=uuid.uuid4().hex[:12],
                finished=finished,
                samples=learned[0].samples,
                took_ms=1000 * took_s,
                made_ms=1000 * time.time(),
            )
            await self._store.publish(name, record, learned[1])
            self._on_fit(took_s)
            log.info(
                "lengths were learned",
                extra={"queue": name, "jobs": learned[0].samples, "took_ms": round(1000 * took_s)},
            )
        except (ValueError, ArithmeticError):  # a fit of strange evidence must not end the loop
            log.exception("lengths could not be learned", extra={"queue": name})
            self._pause(name)
        finally:
            await self._store.release(name, self._replica)

    async def _borrowed(
        self, queue: Queue, queues: Sequence[Queue], words: str
    ) -> list[StoredEvidence]:
        """Return jobs of the other queues whose words are hashed alike."""
        donors = _donors(queue, queues)
        found: list[StoredEvidence] = []
        for one in donors:
            if (await self._store.state(one.name)).words in ("", words):
                found += await self._store.evidence(one.name, DONORS // len(donors))
        return found

    # ------------------------------------------------------------------ judgement

    async def _judge(self, name: str, state: LearningState) -> None:
        before = self._judged.get(name)
        if before is not None and 0 <= state.evidence - before < JUDGE_AFTER:
            return
        try:
            stats = (await self._queue_cache.read(name)).stats
        except ModelNotFound:
            return  # it was removed meanwhile
        self._judged[name] = state.evidence
        since = max(0, stats.counters.get("succeeded", 0) - stats.judged_from)
        wanted = to_serve(stats.answers[:since], stats.serving)
        if wanted != stats.serving:
            await self._store.serve(name, wanted)
            log.info(
                "other predictions are served",
                extra={"queue": name, "before": stats.serving, "now": wanted},
            )


def _donors(queue: Queue, queues: Sequence[Queue]) -> list[Queue]:
    return [
        one for one in queues if one.name != queue.name and _lends(one.settings, queue.settings)
    ]


def _lends(one: QueueSettings, other: QueueSettings) -> bool:
    return one.learning != "off" and one.keep_words == other.keep_words


def _fit(
    evidence: list[StoredEvidence], finished: int, donors: list[StoredEvidence]
) -> tuple[Learned, bytes] | None:
    learned = fit(unpacked(evidence), finished=finished, donors=unpacked(donors))
    return None if learned is None else (learned, learned.to_bytes())
