"""Break the system by the plan of faults.py. Called by run.py."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any

from redis.exceptions import RedisError

from lengthwise_lab.chaos.clients.settings_writers import SettingsWriters
from lengthwise_lab.chaos.faults import ENGINE_FAULTS, Fault, FaultKind
from lengthwise_lab.chaos.history import History
from lengthwise_lab.chaos.nemesis_actions import (
    Action,
    engine_actions,
    network_actions,
    pick,
    settings_actions,
)
from lengthwise_lab.chaos.system.model_server import ModelServer
from lengthwise_lab.chaos.system.processes import QUEUE, System
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.queues import Mode
from lengthwise_store.store import JobStore

#: How many jobs may be submitted after a fault is due and before it begins.
_AHEAD = 60

#: How long the jobs wait for a lane to be idle, s: as long as most of its faults last.
_LANE_WAIT_S = 8.0

#: How often a fault that failed is tried, and the pause before the next try, s.
_TRIES, _RETRY_S = 5, 1.0


class _Lane:
    """The faults of kinds that last: one at a time, beside the faults of other lanes."""

    def __init__(self) -> None:
        self.faults: asyncio.Queue[Fault | None] = asyncio.Queue()
        self.idle = asyncio.Event()
        self.idle.set()

    async def add(self, fault: Fault) -> None:
        """Add a fault when the lane is idle, or after `_LANE_WAIT_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LANE_WAIT_S):
                await self.idle.wait()
        self.idle.clear()
        self.faults.put_nowait(fault)


class Nemesis:
    """Carries out a plan."""

    def __init__(
        self,
        system: System,
        engine: ModelServer,
        writers: SettingsWriters,
        faults: list[Fault],
        history: History,
    ) -> None:
        """Store the plan. `faults`: in the order of `at`."""
        self.started = 0  #: Number of faults that have started.
        self._more = (
            engine_actions(system, engine)
            | network_actions(system)
            | settings_actions(system, writers)
        )
        self._system, self._faults, self._history = system, faults, history
        self._moved = asyncio.Condition()
        self._submitted = 0
        self._offset_h: dict[str, int] = {}

    async def may_submit(self, number: int) -> None:
        """Wait until the faults that are due well before this job have started."""
        async with self._moved:
            self._submitted = max(self._submitted, number)
            self._moved.notify_all()
            await self._moved.wait_for(lambda: self._next_at() > number - _AHEAD)

    def _next_at(self) -> float:
        return self._faults[self.started].at if self.started < len(self._faults) else float("inf")

    async def run(self) -> None:
        """Carry out the plan; return when the last fault is over.

        Faults follow one another. A stopped worker, a sick engine and other settings of a service
        last, so each of these has a lane beside the other faults. A fault waits for the one before
        it in its lane, and the jobs wait with it; but not for long, so that a long sickness meets
        jobs for all of its time.
        """
        async with asyncio.TaskGroup() as group:
            lanes: dict[str, _Lane] = {}
            for fault in self._faults:
                async with self._moved:
                    await self._moved.wait_for(lambda at=fault.at: self._submitted >= at)  # type: ignore[misc]
                name = _lane(fault.kind)
                if name is not None:
                    if name not in lanes:
                        lanes[name] = _Lane()
                        group.create_task(self._follow(lanes[name]))
                    await lanes[name].add(fault)
                async with self._moved:
                    self.started += 1
                    self._moved.notify_all()
                if name is None:
                    await self._do(fault)
            for lane in lanes.values():
                lane.faults.put_nowait(None)

    async def _follow(self, lane: _Lane) -> None:
        """Carry out the faults of one lane; None: the last was the last."""
        while (fault := await lane.faults.get()) is not None:
            await self._do(fault)
            if lane.faults.empty():
                lane.idle.set()

    async def _do(self, fault: Fault) -> None:
        for _ in range(_TRIES):
            self._history.write("fault", "invoke", kind=fault.kind, at=fault.at)
            try:
                fields = await self._actions()[fault.kind](fault)
            except (RedisError, OSError, StoreUnavailable) as exc:
                # The server was not ready for it. The try is recorded and not counted.
                self._history.write("fault", "fail", kind=fault.kind, at=fault.at, why=repr(exc))
                await asyncio.sleep(_RETRY_S)
            else:
                self._history.write("fault", "ok", kind=fault.kind, at=fault.at, **fields)
                return

    def _actions(self) -> dict[FaultKind, Action]:
        return {
            FaultKind.KILL_WORKER: self._kill_worker,
            FaultKind.STOP_WORKER: self._stop_worker,
            FaultKind.TERM_WORKER: self._term_worker,
            FaultKind.KILL_SERVICE: self._kill_service,
            FaultKind.KILL_BROKER: self._kill_broker,
            FaultKind.FREEZE_BROKER: self._freeze_broker,
            FaultKind.FAILOVER: self._failover,
            FaultKind.CLIENT_KILL: self._client_kill,
            FaultKind.SCRIPT_FLUSH: self._script_flush,
            FaultKind.FUNCTION_FLUSH: self._function_flush,
            FaultKind.CLOCK_JUMP: self._clock_jump,
            FaultKind.PAUSE: self._pause,
            **self._more,
        }

    # ------------------------------------------------------------------ processes

    async def _kill_worker(self, fault: Fault) -> dict[str, Any]:
        victim = pick(self._system.workers, fault.aim)
        victim.signal(signal.SIGKILL)
        return {"victim": victim.name}

    async def _stop_worker(self, fault: Fault) -> dict[str, Any]:
        victim = pick(self._system.workers, fault.aim)
        lease_s = self._system.sizes.lease_ms / 1000
        victim.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(lease_s * (1.3 + fault.force))
        finally:
            victim.signal(signal.SIGCONT)
        return {"victim": victim.name, "seconds": round(lease_s * (1.3 + fault.force), 3)}

    async def _term_worker(self, fault: Fault) -> dict[str, Any]:
        victim = pick(self._system.workers, fault.aim)
        victim.signal(signal.SIGTERM)
        return {"victim": victim.name}

    async def _kill_service(self, fault: Fault) -> dict[str, Any]:
        victim = pick(self._system.services, fault.aim)
        victim.signal(signal.SIGKILL)
        return {"victim": victim.name}

    async def _clock_jump(self, fault: Fault) -> dict[str, Any]:
        hours = {}
        for victim in (
            pick(self._system.workers, fault.aim),
            pick(self._system.services, fault.aim),
        ):
            # From the right time to a wrong one, or back: a clock is off by an hour at most.
            started = f"{victim.name} {victim.starts}"
            by = -self._offset_h.get(started, 0) or (1 if fault.force < 0.5 else -1)
            self._offset_h[started] = self._offset_h.get(started, 0) + by
            victim.signal(signal.SIGUSR1 if by > 0 else signal.SIGUSR2)
            hours[victim.name] = by
        return {"hours": hours}

    # ------------------------------------------------------------------ the Redis server

    async def _kill_broker(self, fault: Fault) -> dict[str, Any]:
        broker = self._system.broker
        await broker.primary.kill()
        await asyncio.sleep(fault.force)
        await broker.primary.start()
        return {}

    async def _freeze_broker(self, fault: Fault) -> dict[str, Any]:
        seconds = 0.5 + 2 * fault.force
        await self._system.broker.primary.freeze(seconds)
        return {"seconds": round(seconds, 3)}

    async def _failover(self, fault: Fault) -> dict[str, Any]:
        if self._system.sizes.durability == "replica":
            return await self._crash_failover(fault)
        return await self._planned_failover(fault)

    async def _crash_failover(self, fault: Fault) -> dict[str, Any]:
        """Make the replica lag, kill the primary, and promote the replica as it is."""
        broker = self._system.broker
        await broker.in_sync()
        broker.between.delay_s = 0.05 + 0.3 * fault.force
        try:
            await asyncio.sleep(1.0)
            behind = await broker.lag_bytes()
            await broker.primary.kill()
        finally:
            broker.between.delay_s = 0.0
        await broker.promote()
        await broker.attach_old_primary()
        return {"lost_bytes": behind}

    async def _planned_failover(self, fault: Fault) -> dict[str, Any]:
        """Make the replica lag, block all connections, wait until it is in sync, and promote it."""
        broker = self._system.broker
        await broker.in_sync()
        broker.between.delay_s = 0.2 + fault.force
        try:
            await asyncio.sleep(1.0)
            behind = await broker.lag_bytes()
            with broker.front.closed():
                await broker.in_sync()
                broker.between.delay_s = 0.0
                await broker.promote()
        finally:
            broker.between.delay_s = 0.0
        await broker.attach_old_primary()
        return {"behind_bytes": behind}

    async def _client_kill(self, fault: Fault) -> dict[str, Any]:
        client: Any = self._system.broker.primary.client
        killed = 0
        for kind in ("normal", "pubsub"):
            killed += await client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        return {"connections": killed}

    async def _script_flush(self, fault: Fault) -> dict[str, Any]:
        await self._system.broker.primary.client.script_flush("SYNC")
        return {}

    async def _function_flush(self, fault: Fault) -> dict[str, Any]:
        client: Any = self._system.broker.primary.client
        await client.execute_command("FUNCTION", "FLUSH", "SYNC")
        return {}

    async def _pause(self, fault: Fault) -> dict[str, Any]:
        """Pause the queue. No job may start from the reply until the end, by the clock of Redis."""
        primary = self._system.broker.primary
        store = JobStore(f"redis://127.0.0.1:{primary.port}/0")
        try:
            await store.set_mode(QUEUE, Mode.PAUSED)
            try:
                from_ms = await primary.clock_ms()
                await asyncio.sleep(0.5 + 1.5 * fault.force)
                to_ms = await primary.clock_ms()
            finally:
                await store.set_mode(QUEUE, Mode.OPEN)
        finally:
            await store.aclose()
        return {"from_ms": from_ms, "to_ms": to_ms}


def _lane(kind: FaultKind) -> str | None:
    """Return the lane of a fault that overlaps with the faults of other lanes; None: of no lane."""
    if kind in ENGINE_FAULTS:
        return "engine"
    return kind if kind in (FaultKind.STOP_WORKER, FaultKind.SERVICE_SETTINGS) else None
