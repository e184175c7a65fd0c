"""What the nemesis does to engines, to connections, and to settings. Called by nemesis.py."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from lengthwise_lab.chaos.clients.settings_writers import SettingsWriters
from lengthwise_lab.chaos.faults import Fault, FaultKind
from lengthwise_lab.chaos.system.model_server import ModelServer
from lengthwise_lab.chaos.system.processes import System
from lengthwise_lab.chaos.system.proxy import HalfOpen, Proxy
from lengthwise_lab.chaos.system.sickness import Sick, Sickness
from lengthwise_store.output_reader import OUTAGE_LIMIT_S

T = TypeVar("T")

#: Carries out a fault, and returns the fields of its event in the history.
Action = Callable[[Fault], Awaitable[dict[str, Any]]]

_SICKNESS = {
    FaultKind.ENGINE_500: Sickness.ERROR_500,
    FaultKind.ENGINE_404: Sickness.NOT_FOUND,
    FaultKind.ENGINE_OTHER_MODEL: Sickness.WRONG_MODEL,
    FaultKind.ENGINE_HANG: Sickness.HANG,
    FaultKind.ENGINE_HANG_MIDWAY: Sickness.HANG_MIDWAY,
    FaultKind.ENGINE_GARBAGE: Sickness.GARBAGE,
    FaultKind.ENGINE_LUMPS: Sickness.LUMPS,
}

#: Settings of a queue service that is restarted with others, without their prefix. Large prompts
#: are above the body limit. The time that a prediction may take stays: late ones change due times,
#: and the order could not be checked.
OTHER_SETTINGS: tuple[dict[str, str], ...] = (
    {"MAX_BODY_BYTES": "2048"},
    {"PREDICTOR_URL": "http://127.0.0.1:9"},
    {"BATCH_WINDOW": "2", "BATCH_LEASE_MS": "1000"},
    {"SHUTDOWN_GRACE_S": "0", "DURABILITY_TIMEOUT_MS": "50"},
)

#: How long the clients of a service do not notice that their connections are dead, s.
_CLIENT_NOTICES_S = 15.0

#: The share of the sicknesses that last for longer than a job may wait for a sick replica.
_LONG_SHARE = 0.06

#: The other policies of a queue.
_POLICIES = ("fcfs", "shadow")


def pick(choices: Sequence[T], aim: float) -> T:
    """Return the one at `aim`, in [0, 1)."""
    return choices[int(aim * len(choices))]


def engine_actions(system: System, engine: ModelServer) -> dict[FaultKind, Action]:
    """Return the faults of an engine."""

    async def make_sick(fault: Fault) -> dict[str, Any]:
        victim = pick(system.workers, fault.aim).name
        kind = _SICKNESS[fault.kind]
        hangs = kind in (Sickness.HANG, Sickness.HANG_MIDWAY)
        # A call that hangs is given up after the timeout; so hang for longer than that.
        least_s = system.sizes.engine_timeout_s if hangs else 1.0
        seconds = least_s + 1.0 + 2.0 * fault.force
        if fault.force > 1.0 - _LONG_SHARE:
            seconds += system.sizes.sick_bound_s
        sick = Sick(kind, releases=fault.aim * 1000 % 2 < 1)
        engine.sicken(victim, sick)
        try:
            await asyncio.sleep(seconds)
        finally:
            engine.cure(victim)
        return {"victim": victim, "seconds": round(seconds, 3), "calls": sick.calls}

    return dict.fromkeys(_SICKNESS, make_sick)


def network_actions(system: System) -> dict[FaultKind, Action]:
    """Return the faults that cut, delay or silence connections."""

    def half_open(proxy: Proxy, name: str, fault: Fault) -> dict[str, Any]:
        forwards = pick(tuple(HalfOpen), fault.force)
        links = proxy.leave_half_open(name, forwards)
        return {"name": name, "connections": links, "forwards": forwards}

    async def of_worker(fault: Fault) -> dict[str, Any]:
        return half_open(system.broker.front, pick(system.workers, fault.aim).name, fault)

    async def of_service(fault: Fault) -> dict[str, Any]:
        return half_open(system.broker.front, pick(system.services, fault.aim).name, fault)

    async def of_engine(fault: Fault) -> dict[str, Any]:
        return half_open(system.engines, pick(system.workers, fault.aim).name, fault)

    async def drop_replies(fault: Fault) -> dict[str, Any]:
        front = system.broker.front
        before, front.drop_left = front.dropped, 5 + int(40 * fault.force)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3.0):
                while front.drop_left:  # noqa: ASYNC110 - the proxy has no event for it
                    await asyncio.sleep(0.05)
        front.drop_left = 0
        return {"replies": front.dropped - before}

    async def cut(fault: Fault) -> dict[str, Any]:
        front = system.broker.front
        links = len(front.links)
        with front.closed():
            await asyncio.sleep(fault.force)
        return {"connections": links}

    async def slow(fault: Fault) -> dict[str, Any]:
        front = system.broker.front
        front.delay_s = 0.02 + 0.2 * fault.force
        try:
            await asyncio.sleep(2.0)
        finally:
            front.delay_s = 0.0
        return {"delay_s": round(0.02 + 0.2 * fault.force, 3)}

    async def long_outage(fault: Fault) -> dict[str, Any]:
        seconds = OUTAGE_LIMIT_S + 5.0 + 5.0 * fault.force
        with system.broker.front.closed():
            await asyncio.sleep(seconds)
        return {"seconds": round(seconds, 3)}

    async def of_client(fault: Fault) -> dict[str, Any]:
        front = pick(system.fronts, fault.aim)
        fields = half_open(front, "", fault)
        # The product must notice its own dead connections; the patience of its clients is theirs.
        asyncio.get_running_loop().call_later(_CLIENT_NOTICES_S, front.abort_half_open)
        return fields

    return {
        FaultKind.HALF_OPEN_WORKER: of_worker,
        FaultKind.HALF_OPEN_SERVICE: of_service,
        FaultKind.HALF_OPEN_ENGINE: of_engine,
        FaultKind.HALF_OPEN_CLIENT: of_client,
        FaultKind.LONG_OUTAGE: long_outage,
        FaultKind.DROP_REPLIES: drop_replies,
        FaultKind.CUT: cut,
        FaultKind.SLOW: slow,
    }


def settings_actions(system: System, writers: SettingsWriters) -> dict[FaultKind, Action]:
    """Return the faults that change settings."""

    async def service_settings(fault: Fault) -> dict[str, Any]:
        victim = pick(system.services, fault.aim)
        changes = pick(OTHER_SETTINGS, fault.force)
        how = signal.SIGTERM if fault.force < 0.5 else signal.SIGKILL
        victim.changes = {f"LENGTHWISE_QUEUE_{name}": value for name, value in changes.items()}
        victim.signal(how)
        try:
            await asyncio.sleep(4.0)
        finally:
            victim.changes = {}
            victim.signal(how)
        return {"victim": victim.name, "changes": changes}

    async def queue_policy(fault: Fault) -> dict[str, Any]:
        primary = system.broker.primary
        from_ms = await primary.clock_ms()
        policy = pick(_POLICIES, fault.aim)
        async with writers.other_policy(policy):
            await asyncio.sleep(0.5 + 1.5 * fault.force)
        return {"from_ms": from_ms, "to_ms": await system.broker.primary.clock_ms()}

    async def settings_race(fault: Fault) -> dict[str, Any]:
        victim = pick(system.workers, fault.aim)
        victim.signal(signal.SIGKILL)
        return {"victim": victim.name, "writes": await writers.race(fault.force)}

    return {
        FaultKind.SERVICE_SETTINGS: service_settings,
        FaultKind.QUEUE_POLICY: queue_policy,
        FaultKind.SETTINGS_RACE: settings_race,
    }
