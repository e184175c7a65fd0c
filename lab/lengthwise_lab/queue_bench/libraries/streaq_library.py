"""streaQ, https://streaq.readthedocs.io."""

from __future__ import annotations

import logging
from typing import Any

import uvloop
from streaq import Worker

from lengthwise_lab.queue_bench.library import Semantics
from lengthwise_lab.queue_bench.probe import Probe
from lengthwise_lab.queue_bench.producer import LoadPlan, Produced, produce_async

SEMANTICS = Semantics(
    settings="concurrency, uvloop, results not kept",
    acknowledged="after the job",
    after_a_kill="claimed by another worker after idle_timeout, 60 s",
    retries="3 runs",
    deduplication="task id, unique tasks",
    result="off here (ttl 0)",
    order="first in, first out, by named priority",
)


def produce(url: str, plan: LoadPlan) -> Produced:
    """Submit jobs through its task."""

    async def noop(sent_s: float, payload: str) -> None:
        raise NotImplementedError

    async def run() -> Produced:
        worker: Any = Worker(redis_url=url)
        task = worker.task(name="noop", ttl=0, silent=True)(noop)
        async with worker:
            return await produce_async(plan, lambda sent_s, p: task.enqueue(sent_s, p))

    return uvloop.run(run())


def work(url: str, probe: Probe) -> None:
    """Run a worker."""

    async def noop(sent_s: float, payload: str) -> None:
        del payload
        probe.job(sent_s)

    logging.getLogger("streaq").setLevel(logging.WARNING)
    worker: Any = Worker(
        redis_url=url, concurrency=probe.concurrency, anyio_kwargs={"use_uvloop": True}
    )
    worker.task(name="noop", ttl=0, silent=True)(noop)
    worker.run_sync()
