"""Hands jobs in: as fast as it goes, or an open loop at a fixed rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

#: Calls of a library that are under way at once: tasks, or threads where it has no asyncio.
TASKS, THREADS = 32, 8


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """What to hand in.

    `warm_up`: so many first, not timed. `jobs`: then so many. `payload_bytes`: of each, about.
    `rate_per_s`: an open loop with so many arrivals a second, evenly spaced; None: a burst.
    """

    warm_up: int
    jobs: int
    payload_bytes: int
    rate_per_s: float | None = None

    @property
    def payload(self) -> str:
        """The text that each job carries."""
        return "x" * self.payload_bytes


@dataclass(frozen=True, kw_only=True)
class Produced:
    """How it went: seconds and CPU seconds for the timed jobs, and the latest start, s late."""

    seconds: float
    cpu_s: float
    late_s: float = 0.0


async def produce_async(
    plan: LoadPlan, submit: Callable[[float, str], Awaitable[object]]
) -> Produced:
    """With a library that has asyncio: `submit(sent_s, payload)`, `TASKS` of them at once."""
    payload = plan.payload
    await _burst(plan.warm_up, lambda: submit(0.0, payload))
    began_s, cpu_s, late_s = time.monotonic(), time.process_time(), 0.0
    if plan.rate_per_s is None:
        await _burst(plan.jobs, lambda: submit(0.0, payload))
    else:
        tasks = []
        for due_s in _arrivals(plan, began_s):
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            late_s = max(late_s, time.monotonic() - due_s)
            tasks.append(asyncio.ensure_future(submit(due_s, payload)))
        await asyncio.gather(*tasks)
    return _produced(began_s, cpu_s, late_s)


def produce_in_threads(plan: LoadPlan, submit: Callable[[float, str], object]) -> Produced:
    """With a library that blocks: `THREADS` of them at once."""
    payload = plan.payload
    with ThreadPoolExecutor(THREADS) as pool:

        def burst(count: int) -> None:
            shares = [count // THREADS + (i < count % THREADS) for i in range(THREADS)]
            list(pool.map(lambda share: [submit(0.0, payload) for _ in range(share)], shares))

        burst(plan.warm_up)
        began_s, cpu_s, late_s = time.monotonic(), time.process_time(), 0.0
        if plan.rate_per_s is None:
            burst(plan.jobs)
        else:
            for due_s in _arrivals(plan, began_s):
                time.sleep(max(0.0, due_s - time.monotonic()))
                late_s = max(late_s, time.monotonic() - due_s)
                pool.submit(submit, due_s, payload)
            pool.shutdown()
        return _produced(began_s, cpu_s, late_s)


def _arrivals(plan: LoadPlan, began_s: float) -> Iterator[float]:
    gap_s = 1 / plan.rate_per_s if plan.rate_per_s else 0.0
    return (began_s + number * gap_s for number in range(1, plan.jobs + 1))


async def _burst(count: int, submit: Callable[[], Awaitable[object]]) -> None:
    left = iter(range(count))

    async def one_after_the_other() -> None:
        for _ in left:
            await submit()

    await asyncio.gather(*(one_after_the_other() for _ in range(TASKS)))


def _produced(began_s: float, cpu_s: float, late_s: float) -> Produced:
    return Produced(
        seconds=time.monotonic() - began_s, cpu_s=time.process_time() - cpu_s, late_s=late_s
    )
