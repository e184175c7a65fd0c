"""Controls a queue: its settings, its mode, the suspension of its policy, and its ticks."""

from __future__ import annotations

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.states import Event
from lengthwise_store.keys import QUEUES, QueueKeys
from lengthwise_store.queues import Mode, TickReport
from lengthwise_store.redis.errors import read
from lengthwise_store.training_log import TrainingLog

#: Jobs that one step of a change of order looks at: about 2 ms of the server's time.
_REORDER_STEP = 500


class QueueControl(TrainingLog):
    """The methods of `JobStore` that change a whole queue."""

    async def put_queue(self, name: str, settings: QueueSettings) -> None:
        """Create a queue or change its settings; another policy reorders the waiting jobs.

        Waiting jobs keep their price: a new k, or new classes, apply to new jobs.
        """
        await read(self._queue_settings.hset(QUEUES, name, settings.model_dump_json()))
        if not settings.record_rows:
            await self.delete_training_rows(name)
        await self._govern(name, policy=settings.policy)

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
        await read(self._at(queue).hset(QueueKeys(queue).meta, "judged", judged_at))
        await self._govern(queue, fallback="1" if on else "0")

    async def tick(self, queue: str) -> TickReport | None:
        """Tick the queue; None: another process did so within the last tick interval."""
        k, s = QueueKeys(queue), self.settings
        args = [
            s.tick_ms if self.now_ms is None else 0,
            100,  # jobs of each kind for each call: at most about 5 ms of the server's time
            s.worker_ttl_ms,
            s.keep_finished,
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
        self, queue: str, *, mode: str = "", policy: str = "", fallback: str = ""
    ) -> None:
        k = QueueKeys(queue)
        [reply] = await self._run(self._call(k, "govern", (), [mode, policy, fallback]))
        while reply[2] == b"1":  # in steps, so that no script holds the server for long
            [looked] = await self._run(self._call(k, "reorder", (), [_REORDER_STEP]))
            if looked == 0:
                break
