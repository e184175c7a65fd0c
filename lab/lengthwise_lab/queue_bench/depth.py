"""What our claim costs behind a line of a thousand, and of a million."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import uvloop

from lengthwise_lab.loadtest.measures import quantile
from lengthwise_lab.queue_bench.libraries.lengthwise_library import QUEUE, new_job
from lengthwise_lab.queue_bench.server import Server
from lengthwise_store.store import JobStore

#: Calls that are under way while the line is filled, and claims that are timed, one by one.
_FILLING, CLAIMS = 200, 1000


def measure_depths(
    server: Server, depths: Sequence[int], on_job: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Fill one line up to each depth in turn, and time claims there, one job each.

    Jobs come with lengths of their own, so they enter the line anywhere and not just at its end.

    Args:
        server: Emptied before and after.
        depths: Jobs waiting; measured from the smallest on.
        on_job: Told how many jobs the line holds, for a progress bar.
    """
    server.empty()
    try:
        return uvloop.run(_measure(server, sorted(depths), on_job))
    finally:
        server.empty()


async def _measure(
    server: Server, depths: Sequence[int], on_job: Callable[[int], None]
) -> list[dict[str, Any]]:
    store, rows, filled = JobStore(server.url), [], 0
    try:
        for depth in depths:
            await _fill(store, filled, depth, on_job)
            before, claim_ms = server.usage(), []
            timed = min(CLAIMS, depth)
            for _ in range(timed):
                began_s = time.perf_counter()
                [claim] = await store.claim(QUEUE, worker_id="bench", count=1)
                claim_ms.append((time.perf_counter() - began_s) * 1000)
                del claim
            redis_us, _, _ = server.usage().per_job(before, timed)
            filled = depth - timed
            rows.append(
                {
                    "waiting": depth,
                    "claim_p50_ms": round(quantile(claim_ms, 0.5), 3),
                    "claim_p99_ms": round(quantile(claim_ms, 0.99), 3),
                    "claim_max_ms": round(max(claim_ms), 3),
                    "claim_redis_cpu_us": round(redis_us, 1),
                    "memory_bytes": server.memory_bytes(),
                }
            )
    finally:
        await store.aclose()
    return rows


async def _fill(store: JobStore, first: int, depth: int, on_job: Callable[[int], None]) -> None:
    numbers = iter(range(first, depth))

    async def one_after_the_other() -> None:
        for number in numbers:
            # 7919 is prime to 60,000: slacks all over a minute, the same in every run.
            slack_ms = float(number * 7919 % 60_000)
            await store.submit(QUEUE, new_job(0.0, "", slack_ms=slack_ms))
            if number % 1000 == 0:
                on_job(number)

    await asyncio.gather(*(one_after_the_other() for _ in range(_FILLING)))
    on_job(depth)
