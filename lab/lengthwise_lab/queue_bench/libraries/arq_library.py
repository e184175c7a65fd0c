"""arq, https://arq-docs.helpmanual.io."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import uvloop
from arq import Worker, create_pool, func
from arq.connections import RedisSettings

from lengthwise_lab.queue_bench.library import Semantics
from lengthwise_lab.queue_bench.probe import Probe
from lengthwise_lab.queue_bench.producer import LoadPlan, Produced, produce_async

SEMANTICS = Semantics(
    settings="max_jobs, poll_delay 20 ms (its default is 500 ms), results not kept, uvloop",
    acknowledged="after the job",
    after_a_kill="runs again when its in-progress key ends: job timeout + 10 s (310 s)",
    retries="on Retry and on cancellation, at most 5 runs",
    deduplication="job id, while the job is kept",
    result="off here",
    order="by enqueue time",
)


def produce(url: str, plan: LoadPlan) -> Produced:
    """Submit jobs through its pool."""

    async def run() -> Produced:
        pool = await create_pool(RedisSettings.from_dsn(url))
        try:
            return await produce_async(plan, lambda sent_s, p: pool.enqueue_job("noop", sent_s, p))
        finally:
            await pool.aclose()

    return uvloop.run(run())


def work(url: str, probe: Probe) -> None:
    """Run a worker."""

    async def noop(_ctx: dict[str, Any], sent_s: float, _payload: str) -> None:
        probe.job(sent_s)

    # arq 0.25 asks for the event loop where 3.11 would only warn that there is none.
    logging.getLogger("arq").setLevel(logging.WARNING)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())
    Worker(
        functions=[func(noop, name="noop", keep_result=0)],
        redis_settings=RedisSettings.from_dsn(url),
        max_jobs=probe.concurrency,
        poll_delay=0.02,
        keep_result=0,
    ).run()
