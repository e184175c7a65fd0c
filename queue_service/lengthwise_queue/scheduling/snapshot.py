"""Cache the settings and figures of each queue, read from the store once a second at most.

So pricing a job costs no round trip: a submit is one call to Redis, not three.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from lengthwise_contract.defaults import ANSWERS_KEPT
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.errors import ModelNotFound
from lengthwise_queue.prediction.calibration import Calibration, Calibrations
from lengthwise_queue.prediction.calibration_fit import fit_all
from lengthwise_queue.prediction.candidates import tag_of
from lengthwise_queue.prediction.quality import NO_STATISTICS, AnswerStatistics, statistics_of
from lengthwise_queue.tenants.tenant import Tenant
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.prediction_record import Served
from lengthwise_store.queues import Queue, QueueStats
from lengthwise_store.store import JobStore

log = logging.getLogger(__name__)

#: The largest age of a cached snapshot, s. A change of policy is in force everywhere after this.
MAX_AGE_S = 1.0

#: How many more jobs must have succeeded before the calibration and the statistics are computed
#: again: 3 % of the 256 answers. A fit takes 3 ms at most, the statistics 0.5 ms.
REFIT_AFTER = 8


@dataclass(frozen=True, kw_only=True)
class QueueSnapshot:
    """One queue, as it was at `read_s` (monotonic clock, s)."""

    queue: Queue
    stats: QueueStats
    read_s: float
    calibrations: Calibrations = field(default_factory=Calibrations)
    answer_statistics: AnswerStatistics = NO_STATISTICS

    @property
    def settings(self) -> QueueSettings:
        """The queue's settings."""
        return self.queue.settings

    @property
    def serving(self) -> Served:
        """Whose predictions the queue serves: learned ones only if its settings allow it."""
        return self.stats.serving if self.settings.learning == "auto" else "static"

    @property
    def newest_calibration(self) -> Calibration:
        """The calibration in force, of the predictor that predicted the last answer."""
        tags = (answer.predictor for answer in self.stats.answers if answer.predictor)
        return self.calibrations.of(tag_of(next(tags, ""), self.serving))


class QueueCache:
    """The last snapshot of each queue. Only existing queues have one, so the cache is bounded."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._snapshots: dict[str, QueueSnapshot] = {}
        self._since: dict[str, float] = {}
        self._reads: dict[str, asyncio.Task[QueueSnapshot]] = {}
        #: Of each queue: jobs that had succeeded at the last fit, and what was fitted.
        self._fits: dict[str, tuple[int, Calibrations, AnswerStatistics]] = {}
        self._unreadable: set[str] = set()

    async def get(self, tenant: Tenant, name: str) -> QueueSnapshot:
        """Return a queue that the tenant may use, at most `MAX_AGE_S` old.

        Raises:
            ModelNotFound: No queue has that name, or the tenant may not use it. The two cases
                cannot be told apart.
            StoreUnavailable: Redis does not answer.
        """
        # The pattern first: a name outside it gets the same answer whether the queue exists or not.
        if not tenant.may_use(name):
            raise _no_such_model(name)
        snapshot = self._snapshots.get(name)
        if snapshot is not None and time.monotonic() - snapshot.read_s < MAX_AGE_S:
            return snapshot
        read = self._reads.get(name)
        if read is None:  # one read serves all requests that arrive meanwhile
            read = asyncio.create_task(self.read(name))
            self._reads[name] = read
            read.add_done_callback(lambda task: self._read_done(name, task))
        return await asyncio.shield(read)

    def note(self, name: str, tokens: float) -> None:
        """Record that this replica put a job of so many predicted tokens into the queue."""
        self._since[name] = self._since.get(name, 0.0) + tokens

    def since_read(self, name: str) -> float:
        """Return the predicted tokens that this replica added since its last snapshot."""
        return self._since.get(name, 0.0)

    async def read(self, name: str) -> QueueSnapshot:
        """Read the queue of that name now, without a check of the tenant.

        Raises:
            ModelNotFound: No queue has that name.
            StoreUnavailable: Redis does not answer.
        """
        queue = await self._store.queue(name)
        if queue is None:
            self.forget(name)
            raise _no_such_model(name)
        snapshot = self._snapshot_of(queue, await self._store.stats(name))
        self._snapshots[name] = snapshot
        self._since.pop(name, None)
        return snapshot

    def forget(self, name: str) -> None:
        """Forget a queue that was removed."""
        for known in (self._snapshots, self._since, self._fits):
            known.pop(name, None)

    async def read_all(self) -> list[QueueSnapshot]:
        """Read every queue now, ordered by name; one that cannot be read is left out.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        snapshots = []
        for queue in await self._store.queues():
            try:
                snapshots.append(self._snapshot_of(queue, await self._store.stats(queue.name)))
            except StoreUnavailable:
                raise
            except Exception:
                # A damaged key of one queue must hide no other queue, nor stop its metrics.
                if queue.name not in self._unreadable:
                    log.exception("a queue cannot be read", extra={"queue": queue.name})
                self._unreadable.add(queue.name)
            else:
                self._unreadable.discard(queue.name)
        self._fits = {s.queue.name: self._fits[s.queue.name] for s in snapshots}
        self._snapshots = {snapshot.queue.name: snapshot for snapshot in snapshots}
        self._since.clear()
        return snapshots

    def _snapshot_of(self, queue: Queue, stats: QueueStats) -> QueueSnapshot:
        done = stats.counters.get("succeeded", 0)
        fit = self._fits.get(queue.name)
        # At fixed numbers of answers, and without the newer ones, so that all replicas compute the
        # same, whenever they look. The store keeps `ANSWERS_KEPT` at least.
        newer = done % REFIT_AFTER
        if fit is None or fit[0] != done - newer:
            answers = stats.answers[newer:][: ANSWERS_KEPT - REFIT_AFTER]
            fit = done - newer, fit_all(answers), statistics_of(answers)
            self._fits[queue.name] = fit
        _, calibrations, answer_statistics = fit
        return QueueSnapshot(
            queue=queue,
            stats=stats,
            read_s=time.monotonic(),
            calibrations=calibrations,
            answer_statistics=answer_statistics,
        )

    def _read_done(self, name: str, task: asyncio.Task[QueueSnapshot]) -> None:
        self._reads.pop(name, None)
        if not task.cancelled():
            # The requests that wait get the error. Without a reader asyncio would log a warning.
            task.exception()


def _no_such_model(name: str) -> ModelNotFound:
    return ModelNotFound(
        f"The model {name!r} does not exist. GET /v1/models lists the models that do; "
        "PUT /v1/queues/{name} creates one.",
        param="model",
    )
