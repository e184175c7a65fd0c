"""Each queue's settings and figures, read from the store once a second at most.

So pricing a job costs no round trip: a submit is one call to Redis, not three.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.errors import ModelNotFound
from lengthwise_queue.prediction.calibration import Calibration, Calibrations, fit_all
from lengthwise_queue.prediction.evidence import NO_EVIDENCE, Evidence, evidence_of
from lengthwise_store.jobs import Queue, QueueStats
from lengthwise_store.store import JobStore

#: How old settings and figures may be, s. A change of policy is in force after this everywhere.
MAX_AGE_S = 1.0

#: Jobs that must have succeeded before the last answers are looked at anew: of 256, 3 %. Fitting
#: the calibration takes 3 ms at most, the evidence 0.5 ms.
REFIT_AFTER = 8


@dataclass(frozen=True, kw_only=True)
class QueueSnapshot:
    """One queue, as it was at `read_s` (monotonic)."""

    queue: Queue
    stats: QueueStats
    read_s: float
    calibrations: Calibrations = field(default_factory=Calibrations)
    evidence: Evidence = NO_EVIDENCE

    @property
    def settings(self) -> QueueSettings:
        """The queue's settings."""
        return self.queue.settings

    @property
    def newest_calibration(self) -> Calibration:
        """That of the predictor that the last answer was predicted by."""
        tags = (answer.predictor for answer in self.stats.answers if answer.predictor)
        return self.calibrations.of(next(tags, ""))


def no_such_model(name: str) -> ModelNotFound:
    """There is no such model, or none for the tenant that asks."""
    return ModelNotFound(
        f"The model {name!r} does not exist. GET /v1/models lists those that do; "
        "PUT /v1/queues/{name} creates one.",
        param="model",
    )


class QueueCache:
    """The snapshots that were read lately. Only queues that exist have one, so it is bounded."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._snapshots: dict[str, QueueSnapshot] = {}
        self._since: dict[str, float] = {}
        self._reads: dict[str, asyncio.Task[QueueSnapshot]] = {}
        #: Of each queue: jobs that had succeeded at its last look, and what was seen.
        self._looks: dict[str, tuple[int, Calibrations, Evidence]] = {}

    async def get(self, name: str) -> QueueSnapshot:
        """The queue of that name, at most `MAX_AGE_S` old.

        Raises:
            ModelNotFound: There is none.
            StoreUnavailable: Redis does not answer.
        """
        snapshot = self._snapshots.get(name)
        if snapshot is not None and time.monotonic() - snapshot.read_s < MAX_AGE_S:
            return snapshot
        read = self._reads.get(name)
        if read is None:  # one read serves all who come meanwhile
            read = asyncio.create_task(self.read(name))
            self._reads[name] = read
            read.add_done_callback(lambda task: self._read_done(name, task))
        return await asyncio.shield(read)

    def note(self, name: str, tokens: float) -> None:
        """A job of so many predicted tokens came into the line here."""
        self._since[name] = self._since.get(name, 0.0) + tokens

    def since_read(self, name: str) -> float:
        """Predicted tokens that came into the line here since its snapshot was read."""
        return self._since.get(name, 0.0)

    async def read(self, name: str) -> QueueSnapshot:
        """The queue of that name as it is now.

        Raises:
            ModelNotFound: There is none.
            StoreUnavailable: Redis does not answer.
        """
        queue = await self._store.queue(name)
        if queue is None:
            self._snapshots.pop(name, None)
            self._since.pop(name, None)
            self._looks.pop(name, None)
            raise no_such_model(name)
        snapshot = self._snapshot_of(queue, await self._store.stats(name))
        self._snapshots[name] = snapshot
        self._since.pop(name, None)
        return snapshot

    async def read_all(self) -> list[QueueSnapshot]:
        """Every queue as it is now, by name."""
        queues = await self._store.queues()
        snapshots = [self._snapshot_of(q, await self._store.stats(q.name)) for q in queues]
        self._looks = {q.name: self._looks[q.name] for q in queues}
        self._snapshots = {snapshot.queue.name: snapshot for snapshot in snapshots}
        self._since.clear()
        return snapshots

    def _snapshot_of(self, queue: Queue, stats: QueueStats) -> QueueSnapshot:
        done = stats.counters.get("succeeded", 0)
        look = self._looks.get(queue.name)
        # Fewer than before: the store was emptied.
        if look is None or not look[0] <= done < look[0] + REFIT_AFTER:
            look = done, fit_all(stats.answers), evidence_of(stats.answers)
            self._looks[queue.name] = look
        _, fitted, evidence = look
        return QueueSnapshot(
            queue=queue,
            stats=stats,
            read_s=time.monotonic(),
            calibrations=fitted,
            evidence=evidence,
        )

    def _read_done(self, name: str, task: asyncio.Task[QueueSnapshot]) -> None:
        self._reads.pop(name, None)
        if not task.cancelled():
            task.exception()  # its waiters have it; nobody waiting is no reason to warn
