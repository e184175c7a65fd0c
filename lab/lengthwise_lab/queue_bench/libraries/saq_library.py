"""SAQ, https://saq-py.readthedocs.io."""

from __future__ import annotations

import logging
from typing import Any

import uvloop
from saq import Queue, Worker

from lengthwise_lab.queue_bench.library import Semantics
from lengthwise_lab.queue_bench.probe import Probe
from lengthwise_lab.queue_bench.producer import LoadPlan, Produced, produce_async

SEMANTICS = Semantics(
    settings="concurrency, uvloop",
    acknowledged="after the job",
    after_a_kill="swept after its timeout (10 s), every 60 s; runs again only with retries > 1",
    retries="off by default",
    deduplication="key, while the job is not finished",
    result="kept 10 min (its default)",
    order="first in, first out",
)


def produce(url: str, plan: LoadPlan) -> Produced:
    """Submit jobs through its queue, with 32 calls at once."""

    async def run() -> Produced:
        queue = Queue.from_url(url, max_concurrent_ops=32)
        await queue.connect()
        try:
            return await produce_async(
                plan, lambda sent_s, p: queue.enqueue("noop", sent_s=sent_s, payload=p)
            )
        finally:
            await queue.disconnect()

    return uvloop.run(run())


def work(url: str, probe: Probe) -> None:
    """Run a worker."""

    async def noop(_ctx: dict[str, Any], *, sent_s: float, payload: str) -> None:
        del payload
        probe.job(sent_s)

    async def run() -> None:
        queue = Queue.from_url(url, max_concurrent_ops=probe.concurrency)
        await queue.connect()
        await Worker(queue, functions=[("noop", noop)], concurrency=probe.concurrency).start()

    logging.getLogger("saq").setLevel(logging.WARNING)
    uvloop.run(run())
