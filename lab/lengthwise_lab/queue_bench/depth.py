"""Measure our claim with a thousand, and with a million, waiting jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import uvloop

from lengthwise_lab.loadtest.measures import quantile
from lengthwise_lab.queue_bench.libraries.lengthwise_library import QUEUE, new_job
from lengthwise_lab.queue_bench.server import BenchmarkServer
from lengthwise_store.store import JobStore

#: Concurrent submits while the queue is filled, and claims that are timed, one after the other.
_SUBMITTERS, CLAIMS = 200, 1000


def measure_depths(
    server: BenchmarkServer, depths: Sequence[int], on_job: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Fill one queue to each depth, and time claims of one job each.

    The jobs have different lengths, so that they enter the queue anywhere and not only at its end.

    Args:
        server: It is emptied before and after.
        depths: Numbers of waiting jobs; measured in ascending order.
        on_job: Called with the number of jobs in the queue, for a progress bar.
    """
    server.empty()
    try:
        return uvloop.run(_measure(server, sorted(depths), on_job))
    finally:
        server.empty()


async def _measure(
    server: BenchmarkServer, depths: Sequence[int], on_job: Callable[[int], None]
) -> list[dict[str, Any]]:
    store, rows, filled = JobStore(server.url), [], 0
    try:
        for depth in depths:
            await _fill(store, filled, depth, on_job)
            before, claim_ms = server.usage(), []
            timed = min(CLAIMS, depth)
            for _ in range(timed):
                start_s = time.perf_counter()
                [claim] = await store.claim(QUEUE, worker_id="bench", count=1)
                claim_ms.append((time.perf_counter() - start_s) * 1000)
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

    async def submitter() -> None:
        for number in numbers:
            # 7919 is prime to 60,000: the slacks spread over a minute, the same in every run.
            slack_ms = float(number * 7919 % 60_000)
            await store.submit(QUEUE, new_job(0.0, "", slack_ms=slack_ms))
            if number % 1000 == 0:
                on_job(number)

    await asyncio.gather(*(submitter() for _ in range(_SUBMITTERS)))
    on_job(depth)
