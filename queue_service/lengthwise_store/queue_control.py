"""Controls a queue: its settings, its mode, the suspension of its policy, and its ticks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lengthwise_contract.defaults import LEASE_MS
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.states import Event
from lengthwise_store.codec.settings import Document, patched, replaced
from lengthwise_store.configuration.store import QueueConfiguration
from lengthwise_store.keys import QueueKeys
from lengthwise_store.queues import Mode, QueueBusy, TickReport
from lengthwise_store.reads import JobReads
from lengthwise_store.training_log import TrainingLog

#: Jobs that one step of a change of order looks at: about 2 ms of the server's time.
_REORDER_STEP = 500

#: Jobs that one step of a removal looks at: about 5 ms of the server's time.
_REMOVE_STEP = 500

#: How long a removed queue refuses the jobs of replicas that have not noticed, and how long the end
#: of a job that was cancelled with it can be read, ms.
_REMOVED_KEEP_MS = 10_000


class QueueControl(QueueConfiguration, JobReads, TrainingLog):
    """The methods of `JobStore` that change a whole queue."""

    async def put_queue(
        self, name: str, settings: QueueSettings, *, only_new: bool = False
    ) -> bool:
        """Create a queue, or replace what people set; another policy reorders the waiting jobs.

        What workers published stays. Waiting jobs keep their price: a new k, or new classes, apply
        to new jobs.

        Args:
            name: Of the queue.
            settings: Those that are not set get their defaults.
            only_new: Change nothing if there is such a queue.

        Returns:
            False: there is such a queue, and nothing was changed.
        """

        def change(stored: Document | None) -> Document | None:
            if only_new and stored is not None:
                return None
            return replaced(stored or {}, settings)

        before, _ = await self._change_document(name, change)
        if only_new and before is not None:
            return False
        await self._settings_changed(name)
        return True

    async def patch_queue(self, name: str, changes: Mapping[str, Any]) -> bool:
        """Change some settings of a queue; None takes a setting back to its default.

        Returns:
            False: there is no such queue.

        Raises:
            ValueError: A field is not a setting, or a value is wrong (then a `ValidationError`).
        """
        before, _ = await self._change_document(
            name, lambda stored: None if stored is None else patched(stored, changes)
        )
        if before is None:
            return False
        await self._settings_changed(name)
        return True

    async def remove_queue(self, name: str, *, force: bool = False) -> QueueBusy | None:
        """Remove a queue with all that belongs to it; in steps, so that nothing waits for long.

        Its unfinished jobs are cancelled. After an error, call it again: it continues.

        Args:
            name: Of the queue. One that does not exist is no error.
            force: Whether a queue with jobs, dead letters or workers is removed, too. A worker that
                still runs finds its leases lost, and gets no more jobs.

        Returns:
            Why it was not removed; None: it is gone.
        """
        k = QueueKeys(name)
        keys = [k.lengths, k.workers, k.worker_info, k.record, k.guard, k.control]
        args = ["1" if force else "", _REMOVE_STEP, LEASE_MS, _REMOVED_KEEP_MS]
        while True:
            [reply] = await self._run(self._call(k, "remove", keys, args))
            if reply[0] == b"busy":
                waiting, scheduled, running, dead, workers = reply[1:]
                return QueueBusy(
                    waiting=waiting,
                    scheduled=scheduled,
                    running=running,
                    dead=dead,
                    workers=workers,
                )
            if reply[0] == b"removed":
                await self._forget_queue(name)
                return None

    async def _settings_changed(self, name: str) -> None:
        """Let the queue follow its settings, which are written."""
        policy = ""
        # Another writer may have written later and governed earlier: the settings count.
        while (queue := await self.queue(name)) and queue.settings.policy != policy:
            policy = queue.settings.policy
            if not queue.settings.record_rows:
                await self.delete_training_rows(name)
            await self._govern(name, policy=policy)

    async def set_mode(self, queue: str, mode: Mode) -> None:
        """Open, pause or drain a queue; in force for the next claim and the next submit."""
        await self._govern(queue, mode=mode)

    async def set_fallback(self, queue: str, *, on: bool, judged_at: int = 0) -> None:
        """Suspend the policy `sjf` and serve in order of acceptance; or resume it.

        Args:
            queue: Its name.
            on: Whether `sjf` is suspended.
            judged_at: How many jobs had succeeded when the predictor was judged, so that the next
                judgement rests on later ones.
        """
        await self._govern(queue, fallback="1" if on else "0", judged=str(judged_at))

    async def tick(self, queue: str) -> TickReport | None:
        """Tick the queue; None: another process did so within the last tick interval."""
        k, s = QueueKeys(queue), self.settings
        args = [
            s.tick_ms if self.now_ms is None else 0,
            100,  # jobs of each kind for each call: at most about 5 ms of the server's time
            s.worker_ttl_ms,
            s.keep_finished,
            max(s.beat_ms, 3 * s.tick_ms),
            2 * s.beat_ms if self.now_ms is None else 0,
        ]
        keys = [k.guard, k.workers, k.worker_info, k.control]
        reply, _ = await self._run(
            self._call(k, Event.TICK, keys, args),
            # The process that changed the policy may have died before the queue was in order.
            self._call(k, "reorder", (), [_REORDER_STEP]),
        )
        if not reply:
            return None
        promoted, returned, failed, expired, cancelled = reply
        return TickReport(
            promoted=promoted,
            returned=returned,
            failed=failed,
            expired=expired,
            cancelled=cancelled,
        )

    async def _govern(
        self, queue: str, *, mode: str = "", policy: str = "", fallback: str = "", judged: str = ""
    ) -> None:
        k = QueueKeys(queue)
        [reply] = await self._run(self._call(k, "govern", (), [mode, policy, fallback, judged]))
        while reply[2] == b"1":  # in steps, so that no script holds the server for long
            [looked] = await self._run(self._call(k, "reorder", (), [_REORDER_STEP]))
            if looked == 0:
                break
