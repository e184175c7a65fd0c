"""Submit jobs: as fast as possible, or in an open loop at a fixed rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

#: Concurrent calls of a library: tasks, or threads if it has no asyncio.
TASKS, THREADS = 32, 8


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """The jobs to submit.

    `warm_up`: jobs that come first and are not timed. `jobs`: timed jobs. `payload_bytes`: about,
    of each. `rate_per_s`: arrivals a second of an open loop, evenly spaced; None: a burst.
    """

    warm_up: int
    jobs: int
    payload_bytes: int
    rate_per_s: float | None = None

    @property
    def payload(self) -> str:
        """The payload of each job."""
        return "x" * self.payload_bytes


@dataclass(frozen=True, kw_only=True)
class Produced:
    """The result: seconds and CPU seconds of the timed jobs, and the largest delay, s."""

    seconds: float
    cpu_s: float
    late_s: float = 0.0


async def produce_async(
    plan: LoadPlan, submit: Callable[[float, str], Awaitable[object]]
) -> Produced:
    """Submit with an asyncio library: `TASKS` calls of `submit(sent_s, payload)` at once."""
    payload = plan.payload
    await _burst(plan.warm_up, lambda: submit(0.0, payload))
    start_s, cpu_s, late_s = time.monotonic(), time.process_time(), 0.0
    if plan.rate_per_s is None:
        await _burst(plan.jobs, lambda: submit(0.0, payload))
    else:
        tasks = []
        for due_s in _arrivals(plan, start_s):
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            late_s = max(late_s, time.monotonic() - due_s)
            tasks.append(asyncio.ensure_future(submit(due_s, payload)))
        await asyncio.gather(*tasks)
    return _produced(start_s, cpu_s, late_s)


def produce_in_threads(plan: LoadPlan, submit: Callable[[float, str], object]) -> Produced:
    """Submit with a blocking library: `THREADS` calls at once."""
    payload = plan.payload
    with ThreadPoolExecutor(THREADS) as pool:

        def burst(count: int) -> None:
            shares = [count // THREADS + (i < count % THREADS) for i in range(THREADS)]
            list(pool.map(lambda share: [submit(0.0, payload) for _ in range(share)], shares))

        burst(plan.warm_up)
        start_s, cpu_s, late_s = time.monotonic(), time.process_time(), 0.0
        if plan.rate_per_s is None:
            burst(plan.jobs)
        else:
            for due_s in _arrivals(plan, start_s):
                time.sleep(max(0.0, due_s - time.monotonic()))
                late_s = max(late_s, time.monotonic() - due_s)
                pool.submit(submit, due_s, payload)
            pool.shutdown()
        return _produced(start_s, cpu_s, late_s)


def _arrivals(plan: LoadPlan, start_s: float) -> Iterator[float]:
    gap_s = 1 / plan.rate_per_s if plan.rate_per_s else 0.0
    return (start_s + number * gap_s for number in range(1, plan.jobs + 1))


async def _burst(count: int, submit: Callable[[], Awaitable[object]]) -> None:
    left = iter(range(count))

    async def submitter() -> None:
        for _ in left:
            await submit()

    await asyncio.gather(*(submitter() for _ in range(TASKS)))


def _produced(start_s: float, cpu_s: float, late_s: float) -> Produced:
    return Produced(
        seconds=time.monotonic() - start_s, cpu_s=time.process_time() - cpu_s, late_s=late_s
    )
