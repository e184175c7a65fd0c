"""Breaks the system: carries out the plan of faults.py. Called by run.py."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import RedisError

from lengthwise_lab.chaos.faults import Fault, Kind
from lengthwise_lab.chaos.history import History
from lengthwise_lab.chaos.system.processes import QUEUE, Process, System
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.queues import Mode
from lengthwise_store.store import JobStore

#: So many jobs may be handed in while a fault that was due before them has not begun.
_AHEAD = 60

#: How often a fault is tried that the server was not fit for, and the time between, s.
_TRIES, _AGAIN_S = 5, 1.0


class Nemesis:
    """Carries a plan out."""

    def __init__(self, system: System, faults: list[Fault], history: History) -> None:
        """`faults` in the order of `at`."""
        self.begun = 0  #: How many faults have been begun.
        self._system, self._faults, self._history = system, faults, history
        self._moved = asyncio.Condition()
        self._submitted = 0
        self._hour: dict[str, int] = {}

    async def may_submit(self, number: int) -> None:
        """Let a job be handed in once the faults that were due well before it have begun."""
        async with self._moved:
            self._submitted = max(self._submitted, number)
            self._moved.notify_all()
            await self._moved.wait_for(lambda: self._next_at() > number - _AHEAD)

    def _next_at(self) -> float:
        return self._faults[self.begun].at if self.begun < len(self._faults) else float("inf")

    async def run(self) -> None:
        """Do all of it; returns when the last is over.

        One after the other, but for a worker that is stopped: it stands still beside what comes
        next, or fifty of them alone would take four minutes.
        """
        async with asyncio.TaskGroup() as group:
            stopped: asyncio.Task[None] | None = None
            for fault in self._faults:
                async with self._moved:
                    await self._moved.wait_for(lambda at=fault.at: self._submitted >= at)  # type: ignore[misc]
                    self.begun += 1
                    self._moved.notify_all()
                if fault.kind is not Kind.STOP_WORKER:
                    await self._do(fault)
                    continue
                if stopped is not None:
                    await stopped
                stopped = group.create_task(self._do(fault))

    async def _do(self, fault: Fault) -> None:
        for _ in range(_TRIES):
            self._history.write("fault", "invoke", kind=fault.kind, at=fault.at)
            try:
                told = await self._acts()[fault.kind](fault)
            except (RedisError, OSError, StoreUnavailable) as exc:
                # The server was not fit for it just then: entry_text so, and not counted.
                self._history.write("fault", "fail", kind=fault.kind, at=fault.at, why=repr(exc))
                await asyncio.sleep(_AGAIN_S)
            else:
                self._history.write("fault", "ok", kind=fault.kind, at=fault.at, **told)
                return

    def _acts(self) -> dict[Kind, Callable[[Fault], Awaitable[dict[str, Any]]]]:
        return {
            Kind.KILL_WORKER: self._kill_worker,
            Kind.STOP_WORKER: self._stop_worker,
            Kind.TERM_WORKER: self._term_worker,
            Kind.KILL_SERVICE: self._kill_service,
            Kind.KILL_BROKER: self._kill_broker,
            Kind.FREEZE_BROKER: self._freeze_broker,
            Kind.FAILOVER: self._failover,
            Kind.CLIENT_KILL: self._client_kill,
            Kind.DROP_REPLIES: self._drop_replies,
            Kind.CUT: self._cut,
            Kind.SLOW: self._slow,
            Kind.SCRIPT_FLUSH: self._script_flush,
            Kind.FUNCTION_FLUSH: self._function_flush,
            Kind.CLOCK_JUMP: self._clock_jump,
            Kind.PAUSE: self._pause,
        }

    # ------------------------------------------------------------------ processes

    async def _kill_worker(self, fault: Fault) -> dict[str, Any]:
        victim = _pick(self._system.workers, fault.aim)
        victim.signal(signal.SIGKILL)
        return {"victim": victim.name}

    async def _stop_worker(self, fault: Fault) -> dict[str, Any]:
        victim = _pick(self._system.workers, fault.aim)
        lease_s = self._system.sizes.lease_ms / 1000
        victim.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(lease_s * (1.3 + fault.force))
        finally:
            victim.signal(signal.SIGCONT)
        return {"victim": victim.name, "seconds": round(lease_s * (1.3 + fault.force), 3)}

    async def _term_worker(self, fault: Fault) -> dict[str, Any]:
        victim = _pick(self._system.workers, fault.aim)
        victim.signal(signal.SIGTERM)
        return {"victim": victim.name}

    async def _kill_service(self, fault: Fault) -> dict[str, Any]:
        victim = _pick(self._system.services, fault.aim)
        victim.signal(signal.SIGKILL)
        return {"victim": victim.name}

    async def _clock_jump(self, fault: Fault) -> dict[str, Any]:
        told = {}
        for victim in (
            _pick(self._system.workers, fault.aim),
            _pick(self._system.services, fault.aim),
        ):
            # Back to the right time, or to the wrong one: each process is an hour off at most.
            started = f"{victim.name} {victim.starts}"
            by = -self._hour.get(started, 0) or (1 if fault.force < 0.5 else -1)
            self._hour[started] = self._hour.get(started, 0) + by
            victim.signal(signal.SIGUSR1 if by > 0 else signal.SIGUSR2)
            told[victim.name] = by
        return {"hours": told}

    # ------------------------------------------------------------------ the server

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
            return await self._crash_over(fault)
        return await self._hand_over(fault)

    async def _crash_over(self, fault: Fault) -> dict[str, Any]:
        """Let the replica fall behind, kill the primary, and promote the replica as it is."""
        broker = self._system.broker
        await broker.in_step()
        broker.between.delay_s = 0.05 + 0.3 * fault.force
        try:
            await asyncio.sleep(1.0)
            behind = await broker.behind_bytes()
            await broker.primary.kill()
        finally:
            broker.between.delay_s = 0.0
        await broker.promote()
        await broker.follow()
        return {"lost_bytes": behind}

    async def _hand_over(self, fault: Fault) -> dict[str, Any]:
        """Let the replica fall behind, shut everybody out, let it catch up, and promote it."""
        broker = self._system.broker
        await broker.in_step()
        broker.between.delay_s = 0.2 + fault.force
        try:
            await asyncio.sleep(1.0)
            behind = await broker.behind_bytes()
            with broker.front.closed():
                await broker.in_step()
                broker.between.delay_s = 0.0
                await broker.promote()
        finally:
            broker.between.delay_s = 0.0
        await broker.follow()
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
        """From the answer to the pause until it is lifted, nothing may start: by Redis's clock."""
        primary = self._system.broker.primary
        store = JobStore(f"redis://127.0.0.1:{primary.port}/0")
        try:
            await store.set_mode(QUEUE, Mode.PAUSED)
            try:
                from_ms = await _clock_ms(primary.client)
                await asyncio.sleep(0.5 + 1.5 * fault.force)
                to_ms = await _clock_ms(primary.client)
            finally:
                await store.set_mode(QUEUE, Mode.OPEN)
        finally:
            await store.aclose()
        return {"from_ms": from_ms, "to_ms": to_ms}

    # ------------------------------------------------------------------ the network

    async def _drop_replies(self, fault: Fault) -> dict[str, Any]:
        front = self._system.broker.front
        before, front.drop_left = front.dropped, 5 + int(40 * fault.force)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3.0):
                while front.drop_left:  # noqa: ASYNC110 - what others do
                    await asyncio.sleep(0.05)
        front.drop_left = 0
        return {"replies": front.dropped - before}

    async def _cut(self, fault: Fault) -> dict[str, Any]:
        front = self._system.broker.front
        links = len(front.links)
        with front.closed():
            await asyncio.sleep(fault.force)
        return {"connections": links}

    async def _slow(self, fault: Fault) -> dict[str, Any]:
        front = self._system.broker.front
        front.delay_s = 0.02 + 0.2 * fault.force
        try:
            await asyncio.sleep(2.0)
        finally:
            front.delay_s = 0.0
        return {"delay_s": round(0.02 + 0.2 * fault.force, 3)}


async def _clock_ms(client: Any) -> float:
    seconds, micros = await client.time()
    return float(seconds * 1000 + micros / 1000)


def _pick(processes: list[Process], aim: float) -> Process:
    return processes[int(aim * len(processes))]
