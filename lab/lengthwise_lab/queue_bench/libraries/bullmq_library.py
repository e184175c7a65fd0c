"""BullMQ for Python, https://docs.bullmq.io/python/introduction."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import uvloop
from bullmq import Queue, Worker

from lengthwise_lab.queue_bench.library import Semantics
from lengthwise_lab.queue_bench.probe import Probe
from lengthwise_lab.queue_bench.producer import LoadPlan, Produced, produce_async

SEMANTICS = Semantics(
    settings="concurrency, finished jobs removed, uvloop",
    acknowledged="after the job, by the lock's token",
    after_a_kill="stalled if its lock (30 s) is missing at two checks 30 s apart; runs first",
    retries="off by default; backoff with jitter",
    deduplication="job id, deduplication id",
    result="off here (removeOnComplete)",
    order="first in, first out; by fixed priority where given",
)


def produce(url: str, plan: LoadPlan) -> Produced:
    """Submit jobs through its queue."""

    async def run() -> Produced:
        queue = Queue("bench", {"connection": url})
        options = {"removeOnComplete": True}
        try:
            return await produce_async(
                plan,
                lambda sent_s, p: queue.add("noop", {"sent_s": sent_s, "payload": p}, options),
            )
        finally:
            await queue.close()

    return uvloop.run(run())


def work(url: str, probe: Probe) -> None:
    """Run a worker."""

    async def noop(job: Any, _token: str) -> None:
        probe.job(job.data["sent_s"])

    async def run() -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        worker = Worker("bench", noop, {"connection": url, "concurrency": probe.concurrency})
        await ended.wait()
        await worker.close(force=True)

    uvloop.run(run())
